from napari_pcs.data.phantom import phantom
from napari_pcs.models.folders import find_model
from napari_pcs.models.store import load_network, save_network
from napari_pcs.session import Session

DIGEST = "0123456789ab" + "cdef" * 13


def test_the_digest_of_a_base_model_makes_the_panel_no_wider(workspace, state, tmp_path):
    session = Session.create(tmp_path / "session")
    session.add(phantom())
    starter = load_network(find_model("starter"))
    for name, base in (("short", "weights"), ("long", DIGEST)):
        save_network(
            starter, session.models / name, f"# {name}\n\nTuned from **starter** ({base}) with the top strategy.\n"
        )
    panel = workspace.panels["Predict"]
    panel.do.open_session(session.root)
    widths = []
    for name in ("short", "long"):
        panel.do.choose_model(name)
        widths.append(panel.card.minimumSizeHint().width())
    assert panel.card.text() == "Tuned from starter (0123456789ab…) with the top strategy."
    assert DIGEST in panel.card.toolTip()
    assert widths[1] < widths[0] + 100
