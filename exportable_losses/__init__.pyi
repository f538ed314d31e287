# A line for each family, which says in `__all__` what is public.
from . import catalog as catalog
from . import functional as functional
from . import speechbrain as speechbrain
from .accuracy import *
from .autoencoder import *
from .classification import *
from .contrastive import *
from .distillation import *
from .edits import *
from .lattice.align import *
from .lattice.ctc import *
from .lattice.ctc_align import *
from .lattice.decode import *
from .lattice.durations import *
from .lattice.fused import *
from .lattice.hybrid import *
from .lattice.keyword import *
from .lattice.linear import *
from .lattice.posterior import *
from .lattice.pruned import *
from .lattice.simple import *
from .lattice.streaming import *
from .lattice.transducer import *
from .margin import *
from .masking import *
from .regression import *
from .separation import *
from .sharpness import *
from .verification import *

__version__: str
