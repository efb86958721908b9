"""What is too large an image, wherever one is decoded."""

# Above the photos of most cameras (12,000 x 9,000 pixels); as RGB it takes 450 MB. A file of some kilobytes can unfold
# to gigabytes.
MAX_IMAGE_PIXELS = 150_000_000
