"""FAISS's names: classes that hold state, and functions. Computation is in algorithms/ and kernels/."""

from tsscompat.faiss_compat.base import *
from tsscompat.faiss_compat.clustering import *
from tsscompat.faiss_compat.codes import *
from tsscompat.faiss_compat.computers import *
from tsscompat.faiss_compat.direct_map import *
from tsscompat.faiss_compat.downcast import *
from tsscompat.faiss_compat.enums import *
from tsscompat.faiss_compat.factory import *
from tsscompat.faiss_compat.flat import *
from tsscompat.faiss_compat.gaps import absent as __getattr__  # noqa: F401 - a missing name says why
from tsscompat.faiss_compat.idmap import *
from tsscompat.faiss_compat.invlists import *
from tsscompat.faiss_compat.invlists_views import *
from tsscompat.faiss_compat.io import *
from tsscompat.faiss_compat.ivf import *
from tsscompat.faiss_compat.ivf_coarse import *
from tsscompat.faiss_compat.ivf_flat import *
from tsscompat.faiss_compat.ivf_independent import *
from tsscompat.faiss_compat.ivf_pq import *
from tsscompat.faiss_compat.ivf_sq import *
from tsscompat.faiss_compat.ivflib import *
from tsscompat.faiss_compat.multi_index import *
from tsscompat.faiss_compat.meta import *
from tsscompat.faiss_compat.operating_points import *
from tsscompat.faiss_compat.params import *
from tsscompat.faiss_compat.pretransform import *
from tsscompat.faiss_compat.quantized import *
from tsscompat.faiss_compat.quantizers import *
from tsscompat.faiss_compat.refine import *
from tsscompat.faiss_compat.selectors import *
from tsscompat.faiss_compat.sharding import *
from tsscompat.faiss_compat.stats import *
from tsscompat.faiss_compat.transforms import *
from tsscompat.faiss_compat.tuning import *
from tsscompat.faiss_compat.two_layer import *
from tsscompat.faiss_compat.vectors import *
