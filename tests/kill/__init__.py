"""Kill trainings, caches and gradings at random moments: the same call must end as if nothing was.

    python -m tests.kill --kills 50 --seed 0

Every scenario runs once without being disturbed. Then it is begun anew, killed with its whole
process group (SIGKILL) once to three times, each time called again, and let come to its end. All
that stands in its folder must then be what the undisturbed run has left there, bit for bit, but for
the seconds that were measured; epochs that a checkpoint held at a kill must not have been trained
again; and no process may have stayed. Folders that differ are kept.
"""
