"""Natural video: archives as published in, video.zarr out."""
