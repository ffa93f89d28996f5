"""Detection: MobileNAS backbones in mmdet, on data in COCO format."""
