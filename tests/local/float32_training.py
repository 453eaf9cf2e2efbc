"""The training process in float32, whatever is fastest here: what several processes learn can then be compared."""

import sys

from drone_ft.local import training, weights

weights.fast_numbers = lambda: "float32"
sys.exit(training.main())
