"""VHD images, fixed, dynamic and differencing, on any disk of sectors of 512 or 4096 bytes."""
