"""Running one attempt: admission, execution, child runs, events, settlement."""
