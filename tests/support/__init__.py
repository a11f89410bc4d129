"""Real servers and processes for the tests: started on free ports, stopped also on failure."""
