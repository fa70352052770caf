"""Reports: what a trial made, as one HTML file that opens from disk, without a network.

A report is made of the files in a trial's folder alone, so it can be made again at any time, and on another machine.
"""
