"""Workers are killed, paused and cut off while runs of all kinds go on; then all is counted."""
