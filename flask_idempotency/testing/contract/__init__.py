"""The contract that every store fulfils, as a test suite. Subclass `StoreContract` and say how to open the store."""

from .answering import AnsweringContract
from .claiming import ClaimingContract
from .completing import CompletingContract
from .doubt import DoubtContract
from .frame import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, StoreContractFrame, new_record
from .lapses import LapsesContract
from .lifetimes import LifetimesContract
from .races import RacesContract
from .releasing import ReleasingContract
from .renewing import RenewingContract
from .steps import StepsContract

__all__ = ["DAY", "FINGERPRINT", "OTHER_FINGERPRINT", "RESPONSE", "StoreContract", "StoreContractFrame", "new_record"]


class StoreContract(
    ClaimingContract,
    CompletingContract,
    ReleasingContract,
    LapsesContract,
    AnsweringContract,
    DoubtContract,
    RenewingContract,
    StepsContract,
    LifetimesContract,
    RacesContract,
):
    """What the engine relies on, sentence by sentence of `engine.store.Store`.

    A subclass overrides `open_store`; each call opens another view of the same records, as another process would. Time
    that passes is real, in short leases, unless the subclass overrides the fixture `pass_time`.
    """
