"""What every reported figure means; all distances in mm."""
