"""What commands print, made of what the library returns."""
