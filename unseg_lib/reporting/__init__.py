"""What a reader sees: tables from rows.csv beside the published numbers, figures, and the report."""
