"""The picture, as it is drawn: what it shows, in which colours, how large its text is at a README's width."""

import io

import pytest
from known import KNOWN, make_results
from matplotlib.text import Text
from PIL import Image

from harness import picture, rows

README_WIDTH = 838  # px, of a README on GitHub


def figure_of(monkeypatch, results):
    """Return the figure that is drawn, and its PNG."""
    made = []
    new_figure = picture.new_figure
    monkeypatch.setattr(picture, "new_figure", lambda size: made.append(new_figure(size)) or made[0])
    image = picture.draw(rows.make_tables(results), results.runs, "machine")
    return made[0], Image.open(io.BytesIO(image))


def test_text_is_no_smaller_than_9_px(monkeypatch):
    figure, image = figure_of(monkeypatch, make_results(KNOWN))
    scale = README_WIDTH / image.width * figure.dpi / 72  # px a point at a README's width
    sizes = [
        text.get_fontsize() * scale for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()
    ]
    assert min(sizes) >= 9


def test_one_title_names_the_data(monkeypatch):
    figure, image = figure_of(monkeypatch, make_results(KNOWN, data_sha256="1" * 64))
    assert figure.get_suptitle() == "Seconds of training, not MNIST, 3 epochs: shorter is faster"
    assert image.text["Title"] == figure.get_suptitle()


@pytest.mark.parametrize(("epochs", "panels"), [(2, 2), (3, 3)])
def test_loss_is_drawn_from_three_epochs_on(monkeypatch, epochs, panels):
    more = {"epochs": epochs, "epoch_losses": " ".join(["0.1"] * epochs), "epoch_seconds": " ".join(["1"] * epochs)}
    figure, _ = figure_of(monkeypatch, make_results(KNOWN, **more))
    assert len(figure.axes) == panels


def test_the_legend_is_off_the_curves(monkeypatch):
    figure, _ = figure_of(monkeypatch, make_results(KNOWN))
    [legend] = figure.legends
    assert legend.get_window_extent().y1 <= figure.axes[-1].get_window_extent().y0


def test_every_run_is_a_dot_and_every_interval_a_line(monkeypatch):
    figure, _ = figure_of(monkeypatch, make_results(KNOWN))
    found = [(list(line.get_xdata()), line.get_marker()) for line in figure.axes[0].lines]
    assert ([10.0, 10.2, 10.4], "o") in found
    intervals = [x for x, marker in found if marker == "|"]
    tables = rows.make_tables(make_results(KNOWN))
    expected = [[row.relative.low * 10.2, row.relative.high * 10.2] for row in tables[0].rows[1:]]
    for interval, by_hand in zip(intervals, expected, strict=True):
        assert interval == pytest.approx(by_hand, rel=1e-3)  # 10.2 is the mean of the logarithms, roughly


def test_colours_belong_to_the_apis():
    """Whatever else is in the file, and however many devices; those of the six APIs differ."""
    assert len(set(picture.COLOURS.values())) == 6
    assert picture.colour_of(rows.api_of("mnist_mx_gluon.py")) == picture.colour_of(
        rows.api_of("mnist_mx_gluon_hvd.py")
    )
    assert picture.colour_of("another") == picture.colour_of("another")


def test_one_run_of_one_script(monkeypatch):
    figure, _ = figure_of(monkeypatch, make_results({"mnist_mx_a.py": [0.01]}, accuracy=0.1))
    assert len(figure.axes) == 2


def test_names_are_no_formulas(monkeypatch):
    """matplotlib takes what stands between two dollars for one, and fails where it is none."""
    figure, _ = figure_of(monkeypatch, make_results({"mnist_mx_$a_$.py": [1.0], "mnist_mx_b.py": [2.0]}))
    figure.canvas.draw()
    assert "mx_$a_$" in {label.get_text() for label in figure.axes[0].get_yticklabels()}


def test_a_folder_is_left_only_where_it_must_be(monkeypatch):
    """Who may not enter the current folder could not come back."""
    monkeypatch.setattr(picture.os, "chdir", pytest.fail)
    with picture.own_settings():
        pass
