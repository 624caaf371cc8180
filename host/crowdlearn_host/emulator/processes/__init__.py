"""Programs of a virtual phone, as processes of this computer."""
