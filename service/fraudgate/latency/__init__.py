"""Where the time goes: HDR histograms per stage, counters, loop stalls, garbage-collection pauses, reports."""
