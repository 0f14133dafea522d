"""The graph of fold pieces: what each is, what it touches; merged and split by an annotator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import ndimage
from scipy.sparse import csgraph

from napari_pcs.anatomy.folds import cut_into_pieces
from napari_pcs.anatomy.hull import depth_below_hull
from napari_pcs.anatomy.line import hull_line, polyline_length, voxel_graph
from napari_pcs.anatomy.sheets import local_shape, voxel_areas
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from napari_pcs.case import Case

__all__ = ["FoldGraph", "FoldPiece"]

Point = tuple[float, float, float]
_CUBE = np.ones((3, 3, 3), dtype=bool)


class FoldPiece(BaseModel):
    """One fold piece; directions and points are in world mm.

    Attributes
    ----------
    area_mm2
        Of one side of the sheet.
    depth_mean_mm, depth_max_mm
        Below the hull of the hemisphere.
    normal
        Mean unit normal of the sheet; of its two signs the one that points up, or else forwards.
    direction
        Unit vector along its longest extent.
    hull_line
        Its edge towards the hull, from the anterior to the posterior end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    voxels: int
    area_mm2: float
    depth_mean_mm: float
    depth_max_mm: float
    centre_mm: Point
    normal: Point
    direction: Point
    hull_length_mm: float
    hull_line: tuple[Point, ...]


@dataclass(frozen=True, eq=False)
class FoldGraph:
    """Fold pieces of one hemisphere and their neighbourhood.

    Attributes
    ----------
    labels
        int32 volume (x, y, z) in RAS order: 0, or the piece's id.
    graph
        Nodes are ids with a `piece` attribute (`FoldPiece`), edges join pieces that touch, with
        `border_voxels`, the number of voxels on both sides that touch the other.
    """

    labels: NDArray[np.int32]
    affine: NDArray[np.float64]
    depth: NDArray[np.float32]
    graph: nx.Graph

    @classmethod
    def of(cls, case: Case, skeleton: NDArray[np.bool_]) -> FoldGraph:
        """Cut the skeleton of a case into pieces and describe them."""
        depth = depth_below_hull(case.tissue.data > 0, case.tissue.spacing)
        labels = cut_into_pieces(skeleton, case.tissue.spacing)
        return cls.from_labels(labels, case.tissue.affine, depth)

    @classmethod
    def from_labels(
        cls, labels: NDArray[np.integer], affine: NDArray[np.floating], depth: NDArray[np.floating]
    ) -> FoldGraph:
        """Describe pieces that are there already, for example read from a session.

        Parameters
        ----------
        labels
            Volume (x, y, z): 0, or the piece's id.
        affine
            (4, 4): voxel index to world mm.
        depth
            Depth below the hull in mm, on the same grid.
        """
        folds = cls(labels.astype(np.int32), np.asarray(affine, dtype=np.float64), depth, nx.Graph())
        folds._describe(np.unique(labels[labels > 0]).tolist())
        return folds

    @property
    def pieces(self) -> tuple[FoldPiece, ...]:
        """All pieces in the order of their ids."""
        return tuple(self.graph.nodes[i]["piece"] for i in sorted(self.graph))

    def piece(self, number: int) -> FoldPiece:
        """Return one piece.

        Raises
        ------
        InputError
            If there is none of that id.
        """
        if number not in self.graph:
            raise InputError(found=f"no fold piece {number}", expected=f"one of {len(self.graph)} ids")
        found: FoldPiece = self.graph.nodes[number]["piece"]
        return found

    def merge(self, numbers: Iterable[int]) -> FoldGraph:
        """Return the graph with pieces that touch one another made one, under their lowest id.

        Raises
        ------
        InputError
            If there are fewer than two, or they do not hang together.
        """
        chosen = sorted({self.piece(n).id for n in numbers})
        if len(chosen) < 2 or not nx.is_connected(self.graph.subgraph(chosen)):
            raise InputError(
                found=f"fold pieces {', '.join(map(str, chosen))}, which do not all touch",
                expected="two or more pieces that hang together",
            )
        labels = self.labels.copy()
        labels[np.isin(labels, chosen[1:])] = chosen[0]
        return self._with(labels, removed=chosen, described=chosen[:1])

    def split(self, number: int, first: Sequence[int], second: Sequence[int]) -> FoldGraph:
        """Return the graph with one piece cut in two, halfway between two of its voxels.

        Distances are taken along the sheet. The part around `first` keeps the id.

        Raises
        ------
        InputError
            If the two are not two voxels of that piece.
        """
        index = np.argwhere(self.labels == self.piece(number).id)
        nodes = [np.flatnonzero((index == np.asarray(voxel)).all(axis=1)) for voxel in (first, second)]
        if any(len(node) == 0 for node in nodes) or nodes[0] == nodes[1]:
            raise InputError(
                found="points that are not two voxels of one fold piece", expected=f"two voxels of piece {number}"
            )
        graph = voxel_graph(index, self._spacing)
        near, far = (csgraph.dijkstra(graph, directed=False, indices=int(node[0])) for node in nodes)
        labels = self.labels.copy()
        new = max(self.graph) + 1
        labels[tuple(index[far < near].T)] = new
        return self._with(labels, removed=[number], described=[number, new])

    def table(self) -> str:
        """Return one row a piece as TSV; lengths in mm, areas in mm2, coordinates in world mm."""
        header = (
            *("id", "voxels", "area_mm2", "depth_mean_mm", "depth_max_mm", "hull_length_mm"),
            *(f"{name}_{axis}" for name in ("centre", "normal", "direction") for axis in "xyz"),
            "neighbours",
        )
        rows = ["\t".join(header)]
        for p in self.pieces:
            sizes = (p.area_mm2, p.depth_mean_mm, p.depth_max_mm, p.hull_length_mm)
            numbers = [f"{v:.2f}" for v in (*sizes, *p.centre_mm)] + [f"{v:.3f}" for v in (*p.normal, *p.direction)]
            near = ",".join(map(str, sorted(self.graph.neighbors(p.id)))) or "n/a"
            rows.append("\t".join((str(p.id), str(p.voxels), *numbers, near)))
        return "\n".join(rows) + "\n"

    @property
    def _spacing(self) -> tuple[float, float, float]:
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def _with(self, labels: NDArray[np.int32], *, removed: list[int], described: list[int]) -> FoldGraph:
        changed = replace(self, labels=labels, graph=self.graph.copy())
        changed.graph.remove_nodes_from(removed)
        changed._describe(described)  # noqa: SLF001  one of us
        return changed

    def _describe(self, numbers: list[int]) -> None:
        """Add nodes and their edges for the pieces of these ids."""
        boxes = dict(enumerate(ndimage.find_objects(self.labels), 1))
        for number in numbers:
            box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[number])
            inner = self.labels[box]
            offset = np.array([s.start for s in box])
            self.graph.add_node(number, piece=self._piece(number, inner == number, offset))
            for other, border in _touching(inner, number).items():
                self.graph.add_edge(number, other, border_voxels=border)

    def _piece(self, number: int, mask: NDArray[np.bool_], offset: NDArray[np.intp]) -> FoldPiece:
        local = np.argwhere(mask)
        normals = local_shape(mask, local, self._spacing).normals
        index = local + offset
        depth = self.depth[tuple(index.T)].astype(np.float64)
        mm = index @ self.affine[:3, :3].T + self.affine[:3, 3]
        line = hull_line(mm, voxel_graph(index, self._spacing), depth, self._spacing)
        rotation = self.affine[:3, :3] / np.asarray(self._spacing)
        along = np.linalg.eigh(np.cov(mm.T))[1][:, -1] if len(mm) > 1 else np.array([0.0, 1.0, 0.0])
        return FoldPiece(
            id=number,
            voxels=len(index),
            area_mm2=float(voxel_areas(normals, self._spacing).sum()),
            depth_mean_mm=float(depth.mean()),
            depth_max_mm=float(depth.max()),
            centre_mm=_point(mm.mean(axis=0)),
            normal=_signed(rotation @ np.linalg.eigh(normals.T @ normals)[1][:, -1]),
            direction=_signed(along),
            hull_length_mm=polyline_length(line),
            hull_line=tuple(_point(p) for p in line),
        )


def _touching(labels: NDArray[np.int32], number: int) -> dict[int, int]:
    """Pieces that touch one piece, with the number of voxels of both that do."""
    mine = labels == number
    rim = ndimage.binary_dilation(mine, _CUBE) & (labels > 0) & ~mine
    found = {}
    for other in np.unique(labels[rim]).tolist():
        theirs = labels == other
        back = int(np.count_nonzero(ndimage.binary_dilation(theirs, _CUBE) & mine))
        found[other] = back + int(np.count_nonzero(theirs & rim))
    return found


def _point(values: NDArray[np.floating]) -> Point:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _signed(direction: NDArray[np.floating]) -> Point:
    """Choose the sign of an axis by its largest part: up, forwards or to the right."""
    order = sorted(range(3), key=lambda axis: (-round(abs(float(direction[axis])), 6), -axis))
    return _point(direction * (np.sign(direction[order[0]]) or 1.0))
