"""What runs in the containers: the driver of a site's field device, and the controller of the valve."""
