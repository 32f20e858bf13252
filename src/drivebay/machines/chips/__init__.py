"""The chips of a PC that are no storage controllers: as much of each as firmware looks for."""
