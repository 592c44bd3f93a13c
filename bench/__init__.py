"""Speed and memory as ratios, measured in one run: to a limit of this machine, or to a peer."""
