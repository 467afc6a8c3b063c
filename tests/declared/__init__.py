"""Everything that can be declared, through a running gateway."""
