"""Integer products of several rows of weights with four rows of activations at once, in AVX-512 or AVX2.

A loop over one pair of rows loads and widens every number for one multiplication. A tile of 16 pairs (8 in AVX2, which
has half as many registers) uses each number that it has loaded several times, and its sums fit in the registers. LLVM
does not find this form in a Python loop, so that this module builds it, with llvmlite. The sums are integers: a tile
gives the same numbers as the loop, which computes everything on other machines.
"""

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

N_X = 4  # rows of activations in a tile
CACHE_LINE = 64  # bytes
AHEAD = 4  # tiles between the one that is computed and the one that is fetched
READ_TO_L2 = (0, 2, 1)  # codes of LLVM's prefetch: read, to the second-level cache, data


def features() -> set[str]:
    """Return the names of the features that numba compiles for: those of this CPU, unless NUMBA_CPU_FEATURES is set."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, is_present in binding.get_host_cpu_features().items() if is_present}


IS_AVX512 = "avx512bw" in features()
HAS_VNNI = "avx512vnni" in features()
IS_AVAILABLE = IS_AVX512 or "avx2" in features()
N_W = 4 if IS_AVX512 else 2  # rows of weights in a tile
WIDTH = 32 if IS_AVX512 else 16  # numbers of int16 in a register

INT32 = ir.IntType(32)
BYTES = ir.VectorType(ir.IntType(8), WIDTH)
WORDS = ir.VectorType(ir.IntType(16), WIDTH)
SUMS = ir.VectorType(INT32, WIDTH // 2)


@intrinsic
def tile(typing_context, w, i, x, r, n):
    """Return the products of w[i : i + N_W] with x[r : r + N_X] over the first `n` inputs: int32, by rows of w.

    w: int8 [n_out, n_in]. x: int16 [n_rows, n_in]. n: a multiple of WIDTH. Both arrays are contiguous.
    """
    signature = types.UniTuple(types.int32, N_W * N_X)(w, i, x, r, n)
    return signature, build_tile


def build_tile(context, builder, signature, arguments):
    """Return the LLVM code of a tile."""
    w_type, _, x_type, _, _ = signature.args
    w, i, x, r, n = arguments
    w_rows = row_pointers(context, builder, w_type, w, i, N_W)
    x_rows = row_pointers(context, builder, x_type, x, r, N_X)
    zero = ir.Constant(SUMS, None)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(N_W * N_X)]
    start = ir.Constant(n.type, 0)
    step = ir.Constant(n.type, WIDTH)
    with cgutils.for_range_slice(builder, start, n, step, inc=True) as (place, _):
        prefetch_later(builder, w_rows[0], place, n)
        widened = [builder.sext(load(builder, row, place, BYTES), WORDS) for row in w_rows]
        rows = [load(builder, row, place, WORDS) for row in x_rows]
        for pair, total in enumerate(sums):
            added = multiply_add(builder, builder.load(total), widened[pair // N_X], rows[pair % N_X])
            builder.store(added, total)
    totals = [reduce_sum(builder, builder.load(total)) for total in sums]
    return context.make_tuple(builder, signature.return_type, totals)


def row_pointers(context, builder, array_type, array, first, n_rows):
    """Return pointers to the beginnings of rows of a contiguous array."""
    view = context.make_array(array_type)(context, builder, array)
    n_in = cgutils.unpack_tuple(builder, view.shape, 2)[1]
    offsets = (builder.add(first, ir.Constant(first.type, row)) for row in range(n_rows))
    return [builder.gep(view.data, [builder.mul(offset, n_in)]) for offset in offsets]


def load(builder, row, place, vector):
    """Return the vector of a row that begins at a place."""
    pointer = builder.bitcast(builder.gep(row, [place]), vector.as_pointer())
    return builder.load(pointer, align=1)


def prefetch_later(builder, w, place, n):
    """Fetch a part of the weights of a later tile into the cache.

    The CPU recognizes memory that is read in order, but not N_W rows that are read side by side.
    """
    function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [w.type, INT32, INT32, INT32])
    tiles_ahead = builder.mul(n, ir.Constant(n.type, AHEAD))
    first = builder.mul(builder.add(place, tiles_ahead), ir.Constant(n.type, N_W))
    for line in range(0, N_W * WIDTH, CACHE_LINE):
        address = builder.gep(w, [builder.add(first, ir.Constant(n.type, line))])
        builder.call(function, [address, *(ir.Constant(INT32, code) for code in READ_TO_L2)])


def multiply_add(builder, total, a, b):
    """Return total + the sums of neighbouring products of int16."""
    if HAS_VNNI:
        function = declare(builder, "llvm.x86.avx512.vpdpwssd.512", SUMS, [SUMS, SUMS, SUMS])
        return builder.call(function, [total, builder.bitcast(a, SUMS), builder.bitcast(b, SUMS)])
    name = "llvm.x86.avx512.pmaddw.d.512" if IS_AVX512 else "llvm.x86.avx2.pmadd.wd"
    function = declare(builder, name, SUMS, [WORDS, WORDS])
    return builder.add(total, builder.call(function, [a, b]))


def reduce_sum(builder, vector):
    function = declare(builder, f"llvm.vector.reduce.add.v{WIDTH // 2}i32", INT32, [SUMS])
    return builder.call(function, [vector])


def declare(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)
