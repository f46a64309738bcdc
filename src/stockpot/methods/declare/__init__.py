"""What a method declares about itself. `methods/base.py` stands on these modules; none imports it."""
