"""What a run will take, before it is begun: seconds, memory and disk of each stage. No number here decides a result.

shape.py    a model as numbers            job.py       what is asked for, as numbers
work.py     amounts of work, and rates    timing.py    the rates of this machine, from one timed layer
criteria.py, repairs.py, networks.py      how much work each method is: their rows name these functions
stages.py   the stages of a command       healing.py   those of a healing
devices.py  rates of machines that are not at hand, and shapes of well-known models
forecast.py the estimate beside the clock, corrected as it goes
"""
