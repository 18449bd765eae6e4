"""What runs Atoll and measures it: the command line, the dev cluster, benchmarks, the simulator."""
