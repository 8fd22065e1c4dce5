"""The judge: features, class histogram, floor and scores of a real, untrained classifier."""

import numpy as np
import pytest
import torch
from torch import Tensor

from alphabar.data import ArrayDataset, to_unit
from alphabar.errors import AlphabarError
from alphabar.evaluate import Judge, class_histogram, extract_features, floor, frechet_distance
from alphabar.nn import Classifier, ClassifierConfig


def pictures(n: int, seed: int) -> Tensor:
    """Squares of random size and grey, uint8 [n, 1, 16, 16]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(n, 1, 16, 16, dtype=torch.uint8)
    for image in images:
        side, grey = torch.randint(2, 14, (1,), generator=generator), torch.randint(60, 255, (1,), generator=generator)
        image[:, : int(side), : int(side)] = int(grey)
    return images


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(num_classes=3, channels=(4, 8)))


@pytest.fixture(scope="module")
def judge(classifier: Classifier) -> Judge:
    return Judge(classifier, ArrayDataset("train", pictures(200, 1)), ArrayDataset("test", pictures(150, 2)))


def test_features_do_not_depend_on_the_batch_or_the_number_type(classifier: Classifier) -> None:
    images = pictures(7, 0)
    found = extract_features(classifier, images)
    assert found.shape == (7, 8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(extract_features(classifier, images, batch_size=3), found, atol=1e-6)
    np.testing.assert_allclose(extract_features(classifier, to_unit(images)), found, atol=1e-6)


def test_images_are_judged_as_a_viewer_sees_them(classifier: Classifier) -> None:
    images = to_unit(pictures(4, 0))
    outside = torch.where(images == images.min(), images - 0.5, images) + 1e-4
    np.testing.assert_array_equal(extract_features(classifier, outside), extract_features(classifier, images))


def test_the_classifier_keeps_its_mode_and_its_statistics(classifier: Classifier) -> None:
    classifier.train()
    classifier.head.eval()  # as a frozen part would be
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    extract_features(classifier, pictures(4, 0))
    assert classifier.training
    assert not classifier.head.training
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    classifier.eval()


def test_class_histogram(classifier: Classifier) -> None:
    images = pictures(20, 3)
    with torch.no_grad():
        probabilities = classifier(to_unit(images)).softmax(dim=1)
    histogram = class_histogram(classifier, images, batch_size=6)
    assert histogram.counts == tuple(int((probabilities.argmax(dim=1) == k).sum()) for k in range(3))
    assert sum(histogram.counts) == 20
    assert histogram.confidence == pytest.approx(float(probabilities.max(dim=1).values.mean()), abs=1e-6)


def test_the_floor_falls_with_n_and_is_the_train_set_at_most(classifier: Classifier) -> None:
    train, test = extract_features(classifier, pictures(200, 1)), extract_features(classifier, pictures(150, 2))
    few, all_of_them = floor(train, test, 10), floor(train, test, 200)
    assert few.n == 10
    assert few.frechet > all_of_them.frechet == pytest.approx(frechet_distance(train, test))
    assert floor(train, test, 10) == few
    assert floor(train, test, 10, seed=1) != few


def test_real_images_score_like_the_floor_and_static_does_not(judge: Judge) -> None:
    real = judge.score(pictures(100, 4))
    static = judge.score(torch.randint(0, 256, (100, 1, 16, 16), generator=torch.Generator().manual_seed(0)).byte())
    assert real.n == static.n == 100
    assert real.floor_frechet == static.floor_frechet == judge.floor(100).frechet
    assert real.frechet < 5 * real.floor_frechet
    assert static.frechet > 10 * static.floor_frechet
    assert abs(real.kernel) < static.kernel
    assert sum(static.classes.counts) == 100


def test_a_score_is_printed_with_n_and_its_floor_and_without_the_names_of_others(judge: Judge) -> None:
    text = str(judge.score(pictures(50, 5)))
    assert text.startswith("Fréchet distance on our classifier's features ")
    assert "n = 50, floor " in text
    assert "FID" not in text
    assert "KID" not in text


def test_the_same_images_score_the_same(judge: Judge) -> None:
    assert judge.score(pictures(50, 5)) == judge.score(pictures(50, 5))


def test_bad_images(judge: Judge, classifier: Classifier) -> None:
    with pytest.raises(AlphabarError, match=r"score 2\.\.200 images .* got 1"):
        judge.score(pictures(1, 0))
    with pytest.raises(AlphabarError, match=r"score 2\.\.200 images .* got 201"):
        judge.score(pictures(201, 0))
    with pytest.raises(AlphabarError, match="NaN or infinity"):
        judge.score(torch.full((2, 1, 16, 16), torch.nan))
    with pytest.raises(AlphabarError, match=r"\[N, C, H, W\].*got \[3, 16, 16\]"):
        extract_features(classifier, torch.zeros(3, 16, 16))
    with pytest.raises(AlphabarError, match="N of at least 1"):
        class_histogram(classifier, torch.zeros(0, 1, 16, 16))
    with pytest.raises(AlphabarError, match=r"n in 2\.\.5"):
        floor(np.zeros((5, 2)), np.zeros((5, 2)), 6)
