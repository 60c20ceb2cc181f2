"""The factory makes what FAISS's factory makes: types, parameters, nesting; and refuses what it refuses."""

from __future__ import annotations

import re

import faiss as oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tsscompat

D = 24
FIELDS = (
    *("d", "metric_type", "metric_arg", "ntotal", "is_trained", "own_fields", "code_size", "nlist", "nprobe", "max_codes"),
    *("quantizer_trains_alone", "by_residual", "do_polysemous_training", "search_type", "polysemous_ht", "k_factor"),
    *("use_precomputed_table", "own_refine_index", "own_invlists", "code_size_1", "code_size_2"),
)
PARTS = (
    "index",
    "base_index",
    "refine_index",
    "quantizer",
    "storage",
    "q1",
    "pq",
    "sq",
    "refine_pq",
    "cp",
    "hnsw",
    "itq",
    "pca_then_itq",
)
PART_FIELDS = {
    "pq": ("d", "M", "nbits", "code_size"),
    "refine_pq": ("d", "M", "nbits"),
    "sq": ("d", "qtype", "code_size"),
    "cp": ("niter", "spherical", "nredo", "seed", "max_points_per_centroid"),
    "hnsw": ("efConstruction", "efSearch", "max_level", "check_relative_distance"),
}
VT_FIELDS = (
    "d_in",
    "d_out",
    "is_trained",
    "eigen_power",
    "random_rotation",
    "balanced_bins",
    "norm",
    "seed",
    "M",
    "do_pca",
    "have_bias",
)


def plain(value):
    return ord(value) if isinstance(value, str) and len(value) == 1 else float(value)


def fields(thing, names):
    """The declared plain fields among `names` that a thing has."""
    found = {}
    for name in names:
        value = getattr(thing, name, None)
        if isinstance(value, (bool, int, float, str)):
            found[name] = plain(value)
    return found


def described(faiss, index):
    """Everything of an index that its factory string decides, as nested plain data."""
    if isinstance(index, faiss.Index):
        index = faiss.downcast_index(index)
    # FAISS's Python sees an IndexHNSW2Level as its base class.
    made = {"type": type(index).__name__.replace("IndexHNSW2Level", "IndexHNSW"), **fields(index, FIELDS)}
    if hasattr(index, "chain"):
        steps = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
        made["chain"] = [(type(step).__name__, fields(step, VT_FIELDS)) for step in steps]
    if hasattr(index, "hnsw"):
        made["degree"] = index.hnsw.nb_neighbors(0)
    for name in PARTS:
        # FAISS's stub gives graphs over codes the codes' quantiser, which its library lacks.
        part = (
            None
            if type(index).__name__ in ("IndexHNSWPQ", "IndexHNSWSQ", "IndexHNSW2Level") and name in ("pq", "sq", "q1")
            else getattr(index, name, None)
        )
        if name in PART_FIELDS and part is not None:
            made[name] = fields(part, PART_FIELDS[name])
        elif part is not None:
            made[name] = described(faiss, part)
    return made


def attempt(faiss, d, text, *metric):
    try:
        made = faiss.index_factory(d, text, *metric)  # FAISS's downcasts own nothing: keep it
        return described(faiss, made)
    except RuntimeError:
        return "refused"


CODES = [
    "Flat",
    "SQ8",
    "SQ4",
    "SQ6",
    "SQfp16",
    "SQbf16",
    "SQ8_direct",
    "SQ8_direct_signed",
    "PQ8",
    "PQ6x10",
    "PQ4x4np",
    "PQ12np",
    "PQ3x12",
]
WHOLE = [
    *CODES,
    *(
        "IVF16,Flat",
        "IVF2k,FlatDedup",
        "IVF16,PQ4+8",
        "IVF100,SQtqmse4",
        "IVF7,PQ8x6np",
        "IMI2x3,PQ8",
        "IVF10_HNSW,Flat",
        "IVF64_HNSW12,PQ4",
    ),
    *("IVF32(PQ6x4),SQ8", "IVF16(RR8,Flat),Flat", "IVF8(IVF4,Flat),PQ4x4", "IVF16(Flat,RFlat),Flat"),
    *(
        "Residual16,PQ4",
        "Residual2x4,PQ8x5",
        "HNSW",
        "HNSW16",
        "HNSW16,Flat",
        "HNSW_Flat",
        "HNSW8,SQ8",
        "HNSW8_PQ4x6np",
        "HNSW8,PQ12",
    ),
    *("HNSW32,16+PQ4", "HNSW32_2x3+PQ4"),
]
PREFIXES = [
    *(
        "PCA12",
        "PCAR12",
        "PCAW12",
        "PCAWR12",
        "OPQ6",
        "OPQ6_12",
        "ITQ",
        "ITQ12",
        "RR",
        "RR12",
        "RR36",
        "HR",
        "HR77",
        "L2norm",
        "Pad36",
        "Pad12",
    )
]
WRONG = [
    *(
        "",
        ",",
        "Flat,",
        ",Flat",
        "flat",
        "Flat ",
        " Flat",
        "IVF",
        "IVF16",
        "IVF16,",
        "IVFx,Flat",
        "IVF16,Foo",
        "IVF16,PQ",
        "IVF16;Flat",
        "PQ",
        "PQx4",
    ),
    *(
        "PQ5",
        "PQ0",
        "PQ8x25",
        "IVF16,PQ5",
        "PQ8y4",
        "SQ5",
        "SQ8,SQ8",
        "HNSW8,Foo",
        "HNSW-1",
        "HNSW8,PQ",
        "HNSW8,2x3",
        "RR12",
        "PCA,Flat",
    ),
    *(
        "IMI2,Flat",
        "IMI3x4,Flat",
        "IVF16(Flat,Flat",
        "IVF16(Flat)),Flat",
        "IVF16(),Flat",
        "IVF16(Foo),Flat",
        "IVF16)Flat(",
        "(Flat)",
        "IVF16(Flat)",
        "IDMap",
    ),
    *(
        "IDMap2",
        "RFlat",
        ",RFlat",
        "Flat,RFlat2",
        "Flat,Refine()",
        "Flat,Refine(Foo)",
        "PQ8,Refine(PQ4,Refine(Flat))",
        "Refine(Flat)",
        "Residual16",
        "Residual16,SQ8",
    ),
    *(
        "IVF99999999999,Flat",
        "IVF16(IMI2x2),Flat",
        "Flat,IDMap3",
        "L2Norm",
        "IVF16,Flat,Flat",
        "IVF16kM,Flat",
        "IVF-1,Flat",
        "IVF1.5,Flat",
        "PCA12,RR6,",
    ),
]


@pytest.mark.parametrize("metric", [oracle.METRIC_L2, oracle.METRIC_INNER_PRODUCT, oracle.METRIC_L1], ids=["L2", "IP", "L1"])
@pytest.mark.parametrize("text", WHOLE)
def test_same_structure(text, metric):
    made = attempt(tsscompat, D, text, metric)
    assert made == attempt(oracle, D, text, metric)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_transforms(prefix):
    text = f"{prefix},SQ8"
    assert attempt(tsscompat, D, text) == attempt(oracle, D, text) != "refused"


@pytest.mark.parametrize("text", WRONG)
def test_refused_alike(text):
    assert attempt(oracle, D, text) == attempt(tsscompat, D, text) == "refused"


WRAPPED = ["{},IDMap", "IDMap,{}", "{},IDMap2", "IDMap2,{}", "{},RFlat", "{},Refine(SQfp16)", "{},Refine(PQ6x4np)", "{}"]


@given(
    steps=st.lists(st.sampled_from(PREFIXES), max_size=2),
    whole=st.sampled_from(WHOLE),
    wrap=st.lists(st.sampled_from(WRAPPED), max_size=3),
    metric=st.sampled_from([0, 1]),
)
def test_combinations(steps, whole, wrap, metric):
    text = ",".join([*steps, whole])
    for around in wrap:
        text = around.format(text)
    assert attempt(tsscompat, D, text, metric) == attempt(oracle, D, text, metric), text


@given(st.text(alphabet=list("IVF16,PQ8xSQ(np)_HNSWRlat2M"), max_size=14))
def test_noise_is_refused_alike(text):
    assert (attempt(tsscompat, D, text) == "refused") == (attempt(oracle, D, text) == "refused"), text


@pytest.mark.parametrize(
    "text",
    [
        *("Flat", "IVF16,Flat", "PQ8", "IVF16(PCA8,Flat),SQ8_direct", "OPQ4_16,IVF8,PQ4x4", "HNSW16", "IDMap2,SQ6"),
        *("HNSW16,SQ8", "HNSW16,PQ4", "HNSW16_PQ4", "IVF16,PQ4+4"),
    ],
)
def test_reverse(text):
    from faiss.contrib.factory_tools import get_code_size as size
    from faiss.contrib.factory_tools import reverse_index_factory as reverse
    from tsscompat.contrib.factory_tools import get_code_size, reverse_index_factory

    told = reverse_index_factory(tsscompat.index_factory(D, text))
    assert told == reverse(oracle.index_factory(D, text))
    assert reverse_index_factory(tsscompat.index_factory(D, told)) == told
    try:
        expected = size(D, text)
    except (RuntimeError, ValueError):
        return
    assert get_code_size(D, text) == expected


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("IVF16,PQ8y4", "PQ8y4"),
        ("IVF16,PQ5", "PQ5"),
        ("PCA12,IVF16(PCA8,Foo),Flat", "Foo"),
        ("OPQ4,Flat,Refine(Bar)", "Bar"),
        ("HNSW8,Nix", "Nix"),
        ("IVF16(Flat", "IVF16(Flat"),
        ("IVF123456789012,Flat", "123456789012"),
    ],
)
def test_error_points_at_the_piece(text, marked):
    with pytest.raises(tsscompat.faiss_compat.factory_text.FactoryError) as caught:
        tsscompat.index_factory(D, text)
    *_, line, caret = str(caught.value).split("\n")
    assert line == f"    {text}"
    span = re.search(r"\^+", caret).span()
    assert line[span[0] : span[1]] == marked


@pytest.mark.parametrize(
    "text",
    [
        *(
            "IVF16,PQ12x4fs",
            "IVF16,PQ12x4fsr_64",
            "RQ3x8",
            "IVF16,RQ3x8_Nqint8",
            "LSQ3x4",
            "PRQ2x3x8",
            "PLSQ2x3x4",
            "LSH",
            "LSH16rt",
            "ZnLattice3x10_6",
        ),
        *(
            "NSG16,Flat",
            "NSG",
            "RaBitQ4",
            "IVF16,RaBitQfs",
            "EDEN2",
            "MinMax,SQ8",
            "MinMaxFP16,SQ8",
            "IVF16,ITQ16,SH1.5g",
            "IVF16,FlatPanorama",
            "RCQ2x4",
        ),
        "Flat,RefinePanorama(FlatL2Panorama4)",
    ],
)
def test_later_types_are_built_or_refused_by_name(text):
    """A class that is there is made as FAISS makes it; one that is not is named."""
    try:
        made = type(tsscompat.index_factory(D, text)).__name__
    except RuntimeError as e:
        made = str(e)
    expected = type(oracle.downcast_index(oracle.index_factory(D, text))).__name__
    assert made == expected or re.search(r"\w+ is not in tsscompat: ", made)
