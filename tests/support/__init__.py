"""What the tests share: small worlds, models, plugins and results."""
