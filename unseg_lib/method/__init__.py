"""The paper's method: generator, surrogate, prompts, losses, budget and the bilevel loop between them."""
