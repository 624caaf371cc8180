from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_CONTROL: _ClassVar[Purpose]
    PURPOSE_ACTIVATION: _ClassVar[Purpose]
    PURPOSE_ERROR: _ClassVar[Purpose]
    PURPOSE_SHUFFLE: _ClassVar[Purpose]
    PURPOSE_SHARING: _ClassVar[Purpose]
    PURPOSE_RECOVERY: _ClassVar[Purpose]
    PURPOSE_MODEL: _ClassVar[Purpose]
    PURPOSE_NORM: _ClassVar[Purpose]

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLOAT32: _ClassVar[DType]
    FLOAT16: _ClassVar[DType]
    INT8: _ClassVar[DType]
    MASKED: _ClassVar[DType]

class SharedKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHARED_KEYS: _ClassVar[SharedKind]
    SHARED_WEIGHTS: _ClassVar[SharedKind]
    SHARED_FACTS: _ClassVar[SharedKind]
    SHARED_ACTIVATIONS: _ClassVar[SharedKind]
    SHARED_ERRORS: _ClassVar[SharedKind]
    SHARED_SUMS: _ClassVar[SharedKind]
    SHARED_BACK: _ClassVar[SharedKind]
    SHARED_GRADIENT: _ClassVar[SharedKind]
    SHARED_CHECK_SUMS: _ClassVar[SharedKind]
    SHARED_CHECK_BACK: _ClassVar[SharedKind]
    SHARED_CHECK_GRADIENT: _ClassVar[SharedKind]
    SHARED_CLIPPED: _ClassVar[SharedKind]
    SHARED_NOISY: _ClassVar[SharedKind]

class FaultKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAULT_ENVELOPE: _ClassVar[FaultKind]
    FAULT_PROGRAM: _ClassVar[FaultKind]
    FAULT_STATE: _ClassVar[FaultKind]
    FAULT_DATA: _ClassVar[FaultKind]
    FAULT_WIRE: _ClassVar[FaultKind]
    FAULT_DEVICE: _ClassVar[FaultKind]
PURPOSE_CONTROL: Purpose
PURPOSE_ACTIVATION: Purpose
PURPOSE_ERROR: Purpose
PURPOSE_SHUFFLE: Purpose
PURPOSE_SHARING: Purpose
PURPOSE_RECOVERY: Purpose
PURPOSE_MODEL: Purpose
PURPOSE_NORM: Purpose
FLOAT32: DType
FLOAT16: DType
INT8: DType
MASKED: DType
SHARED_KEYS: SharedKind
SHARED_WEIGHTS: SharedKind
SHARED_FACTS: SharedKind
SHARED_ACTIVATIONS: SharedKind
SHARED_ERRORS: SharedKind
SHARED_SUMS: SharedKind
SHARED_BACK: SharedKind
SHARED_GRADIENT: SharedKind
SHARED_CHECK_SUMS: SharedKind
SHARED_CHECK_BACK: SharedKind
SHARED_CHECK_GRADIENT: SharedKind
SHARED_CLIPPED: SharedKind
SHARED_NOISY: SharedKind
FAULT_ENVELOPE: FaultKind
FAULT_PROGRAM: FaultKind
FAULT_STATE: FaultKind
FAULT_DATA: FaultKind
FAULT_WIRE: FaultKind
FAULT_DEVICE: FaultKind

class Frame(_message.Message):
    __slots__ = ("hello", "welcome", "assign", "key_offer", "keys", "ready", "go", "envelope", "progress", "snapshot", "held", "committed", "share", "shared", "fault", "finish", "global_state", "ping", "pong", "heirs", "leave", "patch", "wanted", "chunk", "challenge", "proof", "device_state", "sum_step", "first_weights")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_FIELD_NUMBER: _ClassVar[int]
    KEY_OFFER_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    GO_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_STATE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    HEIRS_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    DEVICE_STATE_FIELD_NUMBER: _ClassVar[int]
    SUM_STEP_FIELD_NUMBER: _ClassVar[int]
    FIRST_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    welcome: Welcome
    assign: Assign
    key_offer: KeyOffer
    keys: Keys
    ready: Ready
    go: Go
    envelope: Envelope
    progress: Progress
    snapshot: Snapshot
    held: Held
    committed: Committed
    share: Share
    shared: Shared
    fault: Fault
    finish: Finish
    global_state: GlobalState
    ping: Ping
    pong: Pong
    heirs: Heirs
    leave: Leave
    patch: Patch
    wanted: Wanted
    chunk: Chunk
    challenge: Challenge
    proof: Proof
    device_state: DeviceState
    sum_step: SumStep
    first_weights: FirstWeights
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., assign: _Optional[_Union[Assign, _Mapping]] = ..., key_offer: _Optional[_Union[KeyOffer, _Mapping]] = ..., keys: _Optional[_Union[Keys, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., go: _Optional[_Union[Go, _Mapping]] = ..., envelope: _Optional[_Union[Envelope, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., held: _Optional[_Union[Held, _Mapping]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ..., share: _Optional[_Union[Share, _Mapping]] = ..., shared: _Optional[_Union[Shared, _Mapping]] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., global_state: _Optional[_Union[GlobalState, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., heirs: _Optional[_Union[Heirs, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., patch: _Optional[_Union[Patch, _Mapping]] = ..., wanted: _Optional[_Union[Wanted, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., challenge: _Optional[_Union[Challenge, _Mapping]] = ..., proof: _Optional[_Union[Proof, _Mapping]] = ..., device_state: _Optional[_Union[DeviceState, _Mapping]] = ..., sum_step: _Optional[_Union[SumStep, _Mapping]] = ..., first_weights: _Optional[_Union[FirstWeights, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "device", "identity", "samples", "token", "nonce", "state")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    version: int
    device: str
    identity: bytes
    samples: int
    token: str
    nonce: bytes
    state: DeviceState
    def __init__(self, version: _Optional[int] = ..., device: _Optional[str] = ..., identity: _Optional[bytes] = ..., samples: _Optional[int] = ..., token: _Optional[str] = ..., nonce: _Optional[bytes] = ..., state: _Optional[_Union[DeviceState, _Mapping]] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("nonce", "ephemeral")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    EPHEMERAL_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    ephemeral: bytes
    def __init__(self, nonce: _Optional[bytes] = ..., ephemeral: _Optional[bytes] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("mac",)
    MAC_FIELD_NUMBER: _ClassVar[int]
    mac: bytes
    def __init__(self, mac: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "run", "device", "id", "relay", "again_seconds")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RELAY_FIELD_NUMBER: _ClassVar[int]
    AGAIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    version: int
    run: str
    device: int
    id: bytes
    relay: str
    again_seconds: float
    def __init__(self, version: _Optional[int] = ..., run: _Optional[str] = ..., device: _Optional[int] = ..., id: _Optional[bytes] = ..., relay: _Optional[str] = ..., again_seconds: _Optional[float] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("device", "identity")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    device: int
    identity: bytes
    def __init__(self, device: _Optional[int] = ..., identity: _Optional[bytes] = ...) -> None: ...

class PieceSpec(_message.Message):
    __slots__ = ("device", "neurons", "program")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    device: int
    neurons: _containers.RepeatedCompositeFieldContainer[Range]
    program: str
    def __init__(self, device: _Optional[int] = ..., neurons: _Optional[_Iterable[_Union[Range, _Mapping]]] = ..., program: _Optional[str] = ...) -> None: ...

class Provide(_message.Message):
    __slots__ = ("piece", "neurons", "from_snapshot")
    PIECE_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    FROM_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    piece: int
    neurons: _containers.RepeatedCompositeFieldContainer[Range]
    from_snapshot: bool
    def __init__(self, piece: _Optional[int] = ..., neurons: _Optional[_Iterable[_Union[Range, _Mapping]]] = ..., from_snapshot: bool = ...) -> None: ...

class Unsealing(_message.Message):
    __slots__ = ("piece", "device")
    PIECE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    piece: int
    device: int
    def __init__(self, piece: _Optional[int] = ..., device: _Optional[int] = ...) -> None: ...

class Transfer(_message.Message):
    __slots__ = ("device", "piece", "layer", "neurons")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    device: int
    piece: int
    layer: int
    neurons: Range
    def __init__(self, device: _Optional[int] = ..., piece: _Optional[int] = ..., layer: _Optional[int] = ..., neurons: _Optional[_Union[Range, _Mapping]] = ...) -> None: ...

class Mechanism(_message.Message):
    __slots__ = ("name", "settings")
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: _containers.ScalarMap[str, float]
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Augmentation(_message.Message):
    __slots__ = ("kind", "options")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    options: _containers.ScalarMap[str, float]
    def __init__(self, kind: _Optional[str] = ..., options: _Optional[_Mapping[str, float]] = ...) -> None: ...

class LinearMap(_message.Message):
    __slots__ = ("edge", "kind", "kernel", "stride", "padding", "dilation")
    EDGE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    DILATION_FIELD_NUMBER: _ClassVar[int]
    edge: int
    kind: str
    kernel: _containers.RepeatedScalarFieldContainer[int]
    stride: _containers.RepeatedScalarFieldContainer[int]
    padding: _containers.RepeatedScalarFieldContainer[int]
    dilation: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, edge: _Optional[int] = ..., kind: _Optional[str] = ..., kernel: _Optional[_Iterable[int]] = ..., stride: _Optional[_Iterable[int]] = ..., padding: _Optional[_Iterable[int]] = ..., dilation: _Optional[_Iterable[int]] = ...) -> None: ...

class Clipping(_message.Message):
    __slots__ = ("clip", "noise")
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    clip: float
    noise: float
    def __init__(self, clip: _Optional[float] = ..., noise: _Optional[float] = ...) -> None: ...

class Training(_message.Message):
    __slots__ = ("learning_rate", "batch", "micro_batch", "in_flight", "seed", "snapshot_every", "wire", "rank", "staleness", "least_rows", "weigh_charge", "shares", "outgoing", "maps", "masked", "warmup", "label_epsilon", "augment", "clipping", "secret_order")
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_EVERY_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    LEAST_ROWS_FIELD_NUMBER: _ClassVar[int]
    WEIGH_CHARGE_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    OUTGOING_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    WARMUP_FIELD_NUMBER: _ClassVar[int]
    LABEL_EPSILON_FIELD_NUMBER: _ClassVar[int]
    AUGMENT_FIELD_NUMBER: _ClassVar[int]
    CLIPPING_FIELD_NUMBER: _ClassVar[int]
    SECRET_ORDER_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    batch: int
    micro_batch: int
    in_flight: int
    seed: int
    snapshot_every: int
    wire: DType
    rank: bool
    staleness: int
    least_rows: int
    weigh_charge: bool
    shares: bool
    outgoing: _containers.RepeatedCompositeFieldContainer[Mechanism]
    maps: _containers.RepeatedCompositeFieldContainer[LinearMap]
    masked: int
    warmup: int
    label_epsilon: float
    augment: _containers.RepeatedCompositeFieldContainer[Augmentation]
    clipping: Clipping
    secret_order: bool
    def __init__(self, learning_rate: _Optional[float] = ..., batch: _Optional[int] = ..., micro_batch: _Optional[int] = ..., in_flight: _Optional[int] = ..., seed: _Optional[int] = ..., snapshot_every: _Optional[int] = ..., wire: _Optional[_Union[DType, str]] = ..., rank: bool = ..., staleness: _Optional[int] = ..., least_rows: _Optional[int] = ..., weigh_charge: bool = ..., shares: bool = ..., outgoing: _Optional[_Iterable[_Union[Mechanism, _Mapping]]] = ..., maps: _Optional[_Iterable[_Union[LinearMap, _Mapping]]] = ..., masked: _Optional[int] = ..., warmup: _Optional[int] = ..., label_epsilon: _Optional[float] = ..., augment: _Optional[_Iterable[_Union[Augmentation, _Mapping]]] = ..., clipping: _Optional[_Union[Clipping, _Mapping]] = ..., secret_order: bool = ...) -> None: ...

class Assign(_message.Message):
    __slots__ = ("generation", "epoch", "pass_index", "boundary", "pass_boundary", "piece", "pieces", "peers", "training", "from_generation", "provides", "transfers", "heirs", "pass_end", "fresh", "patched", "keep_program", "heirs_needed", "unsealings", "provided")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PASS_INDEX_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    PASS_BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    FROM_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PROVIDES_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    HEIRS_FIELD_NUMBER: _ClassVar[int]
    PASS_END_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    PATCHED_FIELD_NUMBER: _ClassVar[int]
    KEEP_PROGRAM_FIELD_NUMBER: _ClassVar[int]
    HEIRS_NEEDED_FIELD_NUMBER: _ClassVar[int]
    UNSEALINGS_FIELD_NUMBER: _ClassVar[int]
    PROVIDED_FIELD_NUMBER: _ClassVar[int]
    generation: int
    epoch: int
    pass_index: int
    boundary: int
    pass_boundary: int
    piece: int
    pieces: _containers.RepeatedCompositeFieldContainer[PieceSpec]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    training: Training
    from_generation: int
    provides: _containers.RepeatedCompositeFieldContainer[Provide]
    transfers: _containers.RepeatedCompositeFieldContainer[Transfer]
    heirs: _containers.RepeatedScalarFieldContainer[int]
    pass_end: int
    fresh: bool
    patched: bool
    keep_program: str
    heirs_needed: int
    unsealings: _containers.RepeatedCompositeFieldContainer[Unsealing]
    provided: _containers.RepeatedCompositeFieldContainer[PieceSpec]
    def __init__(self, generation: _Optional[int] = ..., epoch: _Optional[int] = ..., pass_index: _Optional[int] = ..., boundary: _Optional[int] = ..., pass_boundary: _Optional[int] = ..., piece: _Optional[int] = ..., pieces: _Optional[_Iterable[_Union[PieceSpec, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., training: _Optional[_Union[Training, _Mapping]] = ..., from_generation: _Optional[int] = ..., provides: _Optional[_Iterable[_Union[Provide, _Mapping]]] = ..., transfers: _Optional[_Iterable[_Union[Transfer, _Mapping]]] = ..., heirs: _Optional[_Iterable[int]] = ..., pass_end: _Optional[int] = ..., fresh: bool = ..., patched: bool = ..., keep_program: _Optional[str] = ..., heirs_needed: _Optional[int] = ..., unsealings: _Optional[_Iterable[_Union[Unsealing, _Mapping]]] = ..., provided: _Optional[_Iterable[_Union[PieceSpec, _Mapping]]] = ...) -> None: ...

class KeyOffer(_message.Message):
    __slots__ = ("generation", "device", "ephemeral")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    EPHEMERAL_FIELD_NUMBER: _ClassVar[int]
    generation: int
    device: int
    ephemeral: bytes
    def __init__(self, generation: _Optional[int] = ..., device: _Optional[int] = ..., ephemeral: _Optional[bytes] = ...) -> None: ...

class Keys(_message.Message):
    __slots__ = ("generation", "offers")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    offers: _containers.RepeatedCompositeFieldContainer[KeyOffer]
    def __init__(self, generation: _Optional[int] = ..., offers: _Optional[_Iterable[_Union[KeyOffer, _Mapping]]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class Go(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("generation", "sender", "receiver", "sequence", "purpose", "sealed", "express", "more")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    EXPRESS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    generation: int
    sender: int
    receiver: int
    sequence: int
    purpose: Purpose
    sealed: bytes
    express: bool
    more: int
    def __init__(self, generation: _Optional[int] = ..., sender: _Optional[int] = ..., receiver: _Optional[int] = ..., sequence: _Optional[int] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., sealed: _Optional[bytes] = ..., express: bool = ..., more: _Optional[int] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data", "scale")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    scale: float
    def __init__(self, dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., scale: _Optional[float] = ...) -> None: ...

class Sums(_message.Message):
    __slots__ = ("step", "micro", "edge", "micros", "rows", "values")
    STEP_FIELD_NUMBER: _ClassVar[int]
    MICRO_FIELD_NUMBER: _ClassVar[int]
    EDGE_FIELD_NUMBER: _ClassVar[int]
    MICROS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    step: int
    micro: int
    edge: int
    micros: int
    rows: int
    values: Tensor
    def __init__(self, step: _Optional[int] = ..., micro: _Optional[int] = ..., edge: _Optional[int] = ..., micros: _Optional[int] = ..., rows: _Optional[int] = ..., values: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Norm(_message.Message):
    __slots__ = ("step", "square", "squares", "factors", "deviation", "divisor", "key")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SQUARE_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    DIVISOR_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    step: int
    square: float
    squares: _containers.RepeatedScalarFieldContainer[float]
    factors: _containers.RepeatedScalarFieldContainer[float]
    deviation: float
    divisor: float
    key: bytes
    def __init__(self, step: _Optional[int] = ..., square: _Optional[float] = ..., squares: _Optional[_Iterable[float]] = ..., factors: _Optional[_Iterable[float]] = ..., deviation: _Optional[float] = ..., divisor: _Optional[float] = ..., key: _Optional[bytes] = ...) -> None: ...

class SharedArray(_message.Message):
    __slots__ = ("kind", "step", "edge", "shape", "data", "bits", "weight_bits", "name", "facts")
    KIND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EDGE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BITS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    kind: SharedKind
    step: int
    edge: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    bits: int
    weight_bits: int
    name: str
    facts: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, kind: _Optional[_Union[SharedKind, str]] = ..., step: _Optional[int] = ..., edge: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., bits: _Optional[int] = ..., weight_bits: _Optional[int] = ..., name: _Optional[str] = ..., facts: _Optional[_Iterable[float]] = ...) -> None: ...

class NamedTensor(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: Tensor
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class KeyShare(_message.Message):
    __slots__ = ("piece", "point", "share")
    PIECE_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    piece: int
    point: int
    share: bytes
    def __init__(self, piece: _Optional[int] = ..., point: _Optional[int] = ..., share: _Optional[bytes] = ...) -> None: ...

class StatePart(_message.Message):
    __slots__ = ("layer", "neurons", "arrays", "share")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    layer: int
    neurons: Range
    arrays: _containers.RepeatedCompositeFieldContainer[NamedTensor]
    share: KeyShare
    def __init__(self, layer: _Optional[int] = ..., neurons: _Optional[_Union[Range, _Mapping]] = ..., arrays: _Optional[_Iterable[_Union[NamedTensor, _Mapping]]] = ..., share: _Optional[_Union[KeyShare, _Mapping]] = ...) -> None: ...

class GlobalState(_message.Message):
    __slots__ = ("generation", "part")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    generation: int
    part: StatePart
    def __init__(self, generation: _Optional[int] = ..., part: _Optional[_Union[StatePart, _Mapping]] = ...) -> None: ...

class Metrics(_message.Message):
    __slots__ = ("rows", "loss", "correct", "own")
    class OwnEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    rows: int
    loss: float
    correct: int
    own: _containers.ScalarMap[str, float]
    def __init__(self, rows: _Optional[int] = ..., loss: _Optional[float] = ..., correct: _Optional[int] = ..., own: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("generation", "boundary", "rows", "pass_done", "metrics")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PASS_DONE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    boundary: int
    rows: int
    pass_done: bool
    metrics: Metrics
    def __init__(self, generation: _Optional[int] = ..., boundary: _Optional[int] = ..., rows: _Optional[int] = ..., pass_done: bool = ..., metrics: _Optional[_Union[Metrics, _Mapping]] = ...) -> None: ...

class WrappedKey(_message.Message):
    __slots__ = ("device", "sealed", "point")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    device: int
    sealed: bytes
    point: int
    def __init__(self, device: _Optional[int] = ..., sealed: _Optional[bytes] = ..., point: _Optional[int] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("generation", "boundary", "piece", "sender", "ephemeral", "keys", "sealed", "part", "parts", "needed")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    EPHEMERAL_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    generation: int
    boundary: int
    piece: int
    sender: int
    ephemeral: bytes
    keys: _containers.RepeatedCompositeFieldContainer[WrappedKey]
    sealed: bytes
    part: int
    parts: int
    needed: int
    def __init__(self, generation: _Optional[int] = ..., boundary: _Optional[int] = ..., piece: _Optional[int] = ..., sender: _Optional[int] = ..., ephemeral: _Optional[bytes] = ..., keys: _Optional[_Iterable[_Union[WrappedKey, _Mapping]]] = ..., sealed: _Optional[bytes] = ..., part: _Optional[int] = ..., parts: _Optional[int] = ..., needed: _Optional[int] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("generation", "boundary", "busy_seconds")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    boundary: int
    busy_seconds: float
    def __init__(self, generation: _Optional[int] = ..., boundary: _Optional[int] = ..., busy_seconds: _Optional[float] = ...) -> None: ...

class Heirs(_message.Message):
    __slots__ = ("generation", "heirs")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    HEIRS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    heirs: _containers.RepeatedCompositeFieldContainer[Peer]
    def __init__(self, generation: _Optional[int] = ..., heirs: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class DeviceState(_message.Message):
    __slots__ = ("thermal", "percent", "charging", "metered", "in_use")
    THERMAL_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    CHARGING_FIELD_NUMBER: _ClassVar[int]
    METERED_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    thermal: int
    percent: int
    charging: bool
    metered: bool
    in_use: bool
    def __init__(self, thermal: _Optional[int] = ..., percent: _Optional[int] = ..., charging: bool = ..., metered: bool = ..., in_use: bool = ...) -> None: ...

class Committed(_message.Message):
    __slots__ = ("generation", "boundary")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    generation: int
    boundary: int
    def __init__(self, generation: _Optional[int] = ..., boundary: _Optional[int] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("generation", "round", "theta", "values")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    THETA_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    generation: int
    round: int
    theta: float
    values: DType
    def __init__(self, generation: _Optional[int] = ..., round: _Optional[int] = ..., theta: _Optional[float] = ..., values: _Optional[_Union[DType, str]] = ...) -> None: ...

class Shared(_message.Message):
    __slots__ = ("generation", "update", "last")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    generation: int
    update: bytes
    last: bool
    def __init__(self, generation: _Optional[int] = ..., update: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class SumStep(_message.Message):
    __slots__ = ("attempt", "begin", "key", "keys", "shares", "masked", "survivors", "tags", "revealed", "forgotten", "reference", "projection", "projected")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    REVEALED_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    PROJECTION_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    attempt: bytes
    begin: SumBegin
    key: SumKey
    keys: SumKeys
    shares: SumShares
    masked: SumMasked
    survivors: SumSurvivors
    tags: SumTags
    revealed: SumRevealed
    forgotten: bool
    reference: SumReference
    projection: bytes
    projected: bytes
    def __init__(self, attempt: _Optional[bytes] = ..., begin: _Optional[_Union[SumBegin, _Mapping]] = ..., key: _Optional[_Union[SumKey, _Mapping]] = ..., keys: _Optional[_Union[SumKeys, _Mapping]] = ..., shares: _Optional[_Union[SumShares, _Mapping]] = ..., masked: _Optional[_Union[SumMasked, _Mapping]] = ..., survivors: _Optional[_Union[SumSurvivors, _Mapping]] = ..., tags: _Optional[_Union[SumTags, _Mapping]] = ..., revealed: _Optional[_Union[SumRevealed, _Mapping]] = ..., forgotten: bool = ..., reference: _Optional[_Union[SumReference, _Mapping]] = ..., projection: _Optional[bytes] = ..., projected: _Optional[bytes] = ...) -> None: ...

class SumBegin(_message.Message):
    __slots__ = ("generation", "round", "least", "terms", "theta", "owners", "clip", "noise", "bounded")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LEAST_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    THETA_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    BOUNDED_FIELD_NUMBER: _ClassVar[int]
    generation: int
    round: int
    least: int
    terms: int
    theta: float
    owners: _containers.RepeatedCompositeFieldContainer[SumOwner]
    clip: float
    noise: float
    bounded: bool
    def __init__(self, generation: _Optional[int] = ..., round: _Optional[int] = ..., least: _Optional[int] = ..., terms: _Optional[int] = ..., theta: _Optional[float] = ..., owners: _Optional[_Iterable[_Union[SumOwner, _Mapping]]] = ..., clip: _Optional[float] = ..., noise: _Optional[float] = ..., bounded: bool = ...) -> None: ...

class SumReference(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    def __init__(self, values: _Optional[bytes] = ...) -> None: ...

class SumNorm(_message.Message):
    __slots__ = ("attempt", "square")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SQUARE_FIELD_NUMBER: _ClassVar[int]
    attempt: bytes
    square: float
    def __init__(self, attempt: _Optional[bytes] = ..., square: _Optional[float] = ...) -> None: ...

class SumOwner(_message.Message):
    __slots__ = ("peer", "stretches")
    PEER_FIELD_NUMBER: _ClassVar[int]
    STRETCHES_FIELD_NUMBER: _ClassVar[int]
    peer: Peer
    stretches: _containers.RepeatedCompositeFieldContainer[Range]
    def __init__(self, peer: _Optional[_Union[Peer, _Mapping]] = ..., stretches: _Optional[_Iterable[_Union[Range, _Mapping]]] = ...) -> None: ...

class SumKey(_message.Message):
    __slots__ = ("device", "mask", "share")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    device: int
    mask: bytes
    share: bytes
    def __init__(self, device: _Optional[int] = ..., mask: _Optional[bytes] = ..., share: _Optional[bytes] = ...) -> None: ...

class SumKeys(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[SumKey]
    def __init__(self, keys: _Optional[_Iterable[_Union[SumKey, _Mapping]]] = ...) -> None: ...

class SealedShare(_message.Message):
    __slots__ = ("sender", "receiver", "sealed")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    sender: int
    receiver: int
    sealed: bytes
    def __init__(self, sender: _Optional[int] = ..., receiver: _Optional[int] = ..., sealed: _Optional[bytes] = ...) -> None: ...

class SumShares(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[SealedShare]
    def __init__(self, shares: _Optional[_Iterable[_Union[SealedShare, _Mapping]]] = ...) -> None: ...

class SumMasked(_message.Message):
    __slots__ = ("words", "last")
    WORDS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    words: bytes
    last: bool
    def __init__(self, words: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class SumSurvivors(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, devices: _Optional[_Iterable[int]] = ...) -> None: ...

class SumTag(_message.Message):
    __slots__ = ("sender", "receiver", "tag")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    sender: int
    receiver: int
    tag: bytes
    def __init__(self, sender: _Optional[int] = ..., receiver: _Optional[int] = ..., tag: _Optional[bytes] = ...) -> None: ...

class SumTags(_message.Message):
    __slots__ = ("tags",)
    TAGS_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedCompositeFieldContainer[SumTag]
    def __init__(self, tags: _Optional[_Iterable[_Union[SumTag, _Mapping]]] = ...) -> None: ...

class RevealedShare(_message.Message):
    __slots__ = ("device", "share")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    device: int
    share: bytes
    def __init__(self, device: _Optional[int] = ..., share: _Optional[bytes] = ...) -> None: ...

class SumRevealed(_message.Message):
    __slots__ = ("own_masks", "mask_keys")
    OWN_MASKS_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_FIELD_NUMBER: _ClassVar[int]
    own_masks: _containers.RepeatedCompositeFieldContainer[RevealedShare]
    mask_keys: _containers.RepeatedCompositeFieldContainer[RevealedShare]
    def __init__(self, own_masks: _Optional[_Iterable[_Union[RevealedShare, _Mapping]]] = ..., mask_keys: _Optional[_Iterable[_Union[RevealedShare, _Mapping]]] = ...) -> None: ...

class FirstWeights(_message.Message):
    __slots__ = ("attempt", "begin", "commitment", "commitments", "secret", "secrets", "agreed")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    COMMITMENTS_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    begin: FirstBegin
    commitment: bytes
    commitments: OfDevices
    secret: bytes
    secrets: OfDevices
    agreed: bool
    def __init__(self, attempt: _Optional[int] = ..., begin: _Optional[_Union[FirstBegin, _Mapping]] = ..., commitment: _Optional[bytes] = ..., commitments: _Optional[_Union[OfDevices, _Mapping]] = ..., secret: _Optional[bytes] = ..., secrets: _Optional[_Union[OfDevices, _Mapping]] = ..., agreed: bool = ...) -> None: ...

class FirstBegin(_message.Message):
    __slots__ = ("devices", "distributions")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Peer]
    distributions: _containers.RepeatedCompositeFieldContainer[Distribution]
    def __init__(self, devices: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., distributions: _Optional[_Iterable[_Union[Distribution, _Mapping]]] = ...) -> None: ...

class Distribution(_message.Message):
    __slots__ = ("array", "kind", "low", "high")
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    array: str
    kind: str
    low: float
    high: float
    def __init__(self, array: _Optional[str] = ..., kind: _Optional[str] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class OfDevice(_message.Message):
    __slots__ = ("device", "value")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    device: int
    value: bytes
    def __init__(self, device: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...

class OfDevices(_message.Message):
    __slots__ = ("of",)
    OF_FIELD_NUMBER: _ClassVar[int]
    of: _containers.RepeatedCompositeFieldContainer[OfDevice]
    def __init__(self, of: _Optional[_Iterable[_Union[OfDevice, _Mapping]]] = ...) -> None: ...

class Patch(_message.Message):
    __slots__ = ("generation", "update", "last")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    generation: int
    update: bytes
    last: bool
    def __init__(self, generation: _Optional[int] = ..., update: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("generation", "kind", "reason", "fatal")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FATAL_FIELD_NUMBER: _ClassVar[int]
    generation: int
    kind: FaultKind
    reason: str
    fatal: bool
    def __init__(self, generation: _Optional[int] = ..., kind: _Optional[_Union[FaultKind, str]] = ..., reason: _Optional[str] = ..., fatal: bool = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("nonce", "waiting")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    waiting: bool
    def __init__(self, nonce: _Optional[int] = ..., waiting: bool = ...) -> None: ...

class Wanted(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("sha256", "size", "offset", "data")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size: int
    offset: int
    data: bytes
    def __init__(self, sha256: _Optional[str] = ..., size: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
