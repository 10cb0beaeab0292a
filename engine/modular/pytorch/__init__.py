"""Networks of torch: traced into data, and made of data."""
