"""What is promised of faults, tested at full length: `make torture`, a target for each promise.

A module of this package that has a function `main` is one such test, run by its name:
`python -m tests.torture kills --scale 0.1 --seed 7`. The runner imports all modules of the package
and finds them by this contract:

    ROW = 1                                             # its number in the list of promises
    PROMISE = "acknowledged means readable"             # one line, lower case
    def main(scale: float, seed: int) -> Outcome: ...   # see outcome.py

- `scale` is the share of the promised figure: 1 is the whole, 0.01 a quick form. A test in
  `tests/test_torture_NAME.py` calls the same `main` with a small scale and a fixed seed, and then
  `outcome.check()`, so that `make test` has run the very code of the long form.
- Everything random follows from `seed`: `random.Random(seed)`, nothing else.
- What breaks the promise is not raised but told in `Outcome.violations`, each with all that is
  needed to understand it. An exception is a failure too: of the promise or of its test.
- Where the machine does not allow the test (no root, no namespaces), raise `CannotRun` with why;
  if it is a part that it does not allow, say so in `Outcome.left_out`. The last line tells of both.
- No temporary files but under `scratch()`, no processes but such as it ends itself.
- Modules without `main` are parts that the others share.
"""
