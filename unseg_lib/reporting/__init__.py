"""What a reader sees: tables, figures and the report; loaded when asked for: pandas and matplotlib take a second."""

import lazy_loader

words = str.split  # names in a row, where a list would take a line each

# the face of the package: what others import from it
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "book": words("moved_on rows_shown write_gallery write_pdf write_report"),
        "figures": words("AGREEMENT QUIET REDS STYLE Drawing agreement bars curves draw extremes learning_curve")
        + words("magnify paint show show_rows strokes_of"),
        "pixels": words("common_share frequencies gray_share radial_spectrum spectrum"),
        "published": words("PURPOSES beside deviations nearest paper_numbers value_of"),
        "rows": words("HEADINGS Results against_strongest curves_of differences is_own is_plain load ordered")
        + words("paired repeated repetition scores waiting"),
        "tables": words("Table defence_grids effect matched predictions records")
        + words("repetition_table spread stand_ins table transfer verdicts"),
    },
)
