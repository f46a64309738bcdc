"""What several methods share: none of these modules is a method."""
