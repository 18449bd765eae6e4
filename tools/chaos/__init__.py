"""`atoll chaos`: faults on a local cluster of real processes, under load, with every acknowledged object verified.

command, report     what is asked for and what is told
run                 one run: load, faults one after the other, healing, verification
machines, network   peers as processes, each in a network namespace and on a small disk where the machine allows it
faults              what is done to them
ailments            disks that are slow, or take no writes
load                clients, what they were acknowledged, and whether it is there
outage, rebuild     the figures of healing: a peer away, a peer lost; mixed is their load, figures their aims
watch               status against an audit of the data directories
"""
