"""Choose the size of a network by cross-validation, over as many processes as there are cores.

The processes are joblib's. On a cluster the same search runs under Dask or Ray, which joblib hands
its work to; only the line with `parallel_config` changes:

    client = dask.distributed.Client(address)               ray.util.joblib.register_ray()
    with joblib.parallel_config("dask"): ...                with joblib.parallel_config("ray"): ...
"""

import joblib
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from rnnfast.models import SequenceClassifier


def main():
    digits = load_digits()
    X, y = digits.images[:600], digits.target[:600]  # eight rows of eight pixels each
    model = SequenceClassifier(max_epochs=15, learning_rate=0.01, random_state=0)
    search = GridSearchCV(model, {"hidden_size": [2, 8, 32]}, cv=3, refit=False)
    with joblib.parallel_config("loky", n_jobs=joblib.cpu_count()):
        search.fit(X, y)
    results = search.cv_results_
    for size, score in zip(results["param_hidden_size"], results["mean_test_score"], strict=True):
        print(f"hidden_size={size:3}: {score:.3f} of the digits held out are right")
    best = search.best_params_["hidden_size"]
    print(f"the choice: {best}")
    assert best == 32
    assert search.best_score_ > 0.75


if __name__ == "__main__":  # the processes import this file
    main()
