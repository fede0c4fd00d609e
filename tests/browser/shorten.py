"""Makes a notebook's long work short, on fewer images, from the first cell that runs.

What the cells *yield* is tested by nbval, which runs all of it; here they are to be seen running.
KDCOURSE_BROWSER_WHOLE=1 runs all of it in the browser, too.
"""


def _shorten(*_):
    get_ipython().events.unregister("pre_run_cell", _shorten)  # noqa: F821
    import dataclasses
    from functools import wraps
    from importlib import import_module

    def replace(module, name, change):
        module = import_module(module)
        whole = getattr(module, name)
        setattr(module, name, wraps(whole)(lambda *a, **o: change(whole, *a, **o)))

    def part(whole, *arguments, **options):
        splits = whole(*arguments, **options)
        few = {"validation": splits.validation[:500], "test": splits.test[:600]}
        return dataclasses.replace(splits, **few)

    def on_few(whole, net, inputs, target, **options):
        return whole(net, inputs[:50], target[:50], **options)

    def in_few_points(whole, *arguments, **options):
        return on_few(whole, *arguments, **{**options, "points": 7})

    def in_few_steps(whole, *arguments, **options):
        return whole(*arguments, **{**options, "steps": 20})

    def of_few_batches(whole, *arguments, **options):  # pictured until the thirtieth
        return whole(*arguments, **{**options, "steps": 8})

    def in_few_epochs(whole, make, models, train, knobs, **options):
        if knobs.epochs is None:
            return whole(make, models, train, dataclasses.replace(knobs, steps=4), **options)
        batches = train.steps(knobs.size) if isinstance(train, images) else len(train)
        fewer = dataclasses.replace(knobs, epochs=min(knobs.epochs, 32 // batches))
        return whole(make, models, train, fewer, **options)

    replace("kdcourse.data", "fashion_mnist", part)
    replace("kdcourse.motivation", "landscape", in_few_points)
    replace("kdcourse.motivation", "curvature", on_few)
    replace("kdcourse.course.claims.motivation", "fitted", in_few_steps)
    replace("kdcourse.further", "GeneratedImages", of_few_batches)
    replace("kdcourse.training.fit", "fit_learner", in_few_epochs)
    # By these, fit and loops written by hand draw their batches: they remain comparable.
    images = import_module("kdcourse.data").Images
    steps, order = images.steps, images.order

    def few(whole):
        return whole if whole <= 4 else 2

    images.steps = lambda self, *a, **o: few(steps(self, *a, **o))
    images.order = lambda self, *a, **o: (all := order(self, *a, **o))[: few(len(all))]


get_ipython().events.register("pre_run_cell", _shorten)  # noqa: F821
