"""Everything that is known before a tensor byte is read: locations, headers, output places, chunks, hash."""
