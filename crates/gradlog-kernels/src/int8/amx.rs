//! The kernel for AMX, whose registers are tiles of up to 16 rows of 64 bytes: 8,192 products an instruction here.
//!
//! A panel has the layout that a tile needs as it is: 16 quads of 16 columns. So a tile of columns is 16 quads of a
//! panel, and a tile of rows is [`ROWS`] rows of the same 16 quads. A last group of fewer quads has tiles of its own.
//!
//! Rust's names for these instructions are not stable, so they are written as assembly. The tiles keep their numbers
//! from one instruction to the next, which no second block of assembly may rely on: the whole product is one block.

#[cfg(all(test, target_os = "linux"))]
pub(super) mod emulated;

use super::{Tile, UsedQuads, COLUMNS, GROUP, LANES, ROWS};
use std::arch::asm;
use std::sync::LazyLock;

/// Bytes of 16 columns of a quad, and of a row of a group of quads: a whole row of a tile.
const ROW_BYTES: usize = 64;

/// Whether this machine has the instructions and the system lets this process use the tiles.
///
/// Linux asks to be asked, because a thread that uses them has 8 KiB more to save: it may refuse. Having granted them,
/// it refuses this process signal stacks that are too small for that.
pub(super) fn is_granted() -> bool {
    static GRANTED: LazyLock<bool> = LazyLock::new(|| has_instructions() && is_permitted());
    *GRANTED
}

/// What the processor says of itself: tiles, and products of 8-bit integers in them.
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    #[allow(unused_unsafe)] // these are unsafe before Rust 1.93
    // SAFETY: every processor of this architecture has the instruction.
    let features = unsafe {
        if __cpuid(0).eax < 7 {
            0
        } else {
            __cpuid_count(7, 0).edx
        }
    };
    features & (TILE | INT8) == TILE | INT8
}

/// Asks Linux for the registers, for all threads of this process. Another system is not asked.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this call has two numbers and no pointers. It changes what a thread saves when another one runs.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The sizes of the tiles: eight numbers of bytes in a row, and eight numbers of rows.
#[repr(C, align(64))]
struct Sizes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Sizes {
    /// For quads of which `rest` are left after the last whole group. Tiles 0 to 2 are sums; 3 is of rows and 4 of
    /// columns; 5 and 6 are the same for the rest, and have no rows where nothing is left.
    fn new(rest: usize) -> Self {
        let whole = |rows: usize| (rows, ROW_BYTES);
        let of_rest = if rest == 0 { [(0, 0); 2] } else { [(ROWS, 4 * rest), whole(rest)] };
        let tiles = [[whole(ROWS); 3].as_slice(), &[whole(ROWS), whole(GROUP)], &of_rest].concat();
        let mut sizes = Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (number, (rows, row_bytes)) in tiles.into_iter().enumerate() {
            sizes.rows[number] = rows as u8;
            sizes.row_bytes[number] = row_bytes as u16;
        }
        sizes
    }
}

/// One instruction for all rows, 16 columns and 16 quads; `V` vectors of columns.
///
/// # Safety
/// `rows` must be readable for `ROWS·4·used.of` bytes and `panel` for `used.of·V·64`; [`is_granted`] must be true.
pub(super) unsafe fn tile_amx<const V: usize>(
    rows: *const i8,
    panel: *const u8,
    used: &UsedQuads,
    out: &mut Tile<i32>,
) {
    let rest = used.of % GROUP;
    let sizes = Sizes::new(rest);
    let groups = used.groups.as_slice();
    let whole = match groups.split_last() {
        Some((last, before)) if *last as usize == used.of / GROUP => before,
        _ => groups,
    };
    // SAFETY: group `g` of the whole ones starts at quad `16·g` and ends at `16·(g + 1) <= used.of`, and the last one,
    // if it is not whole, has `rest` quads: all that the tiles are loaded with lies in the rows and in the panel. The
    // tiles are written to `ROWS` rows of `out`, `16·V` numbers each. They are given back, so that no other code finds
    // them in use.
    unsafe {
        asm!(
            "ldtilecfg [{at}]", // and all tiles are zero
            // Each whole group: tile 3 is its rows, tile 4 its columns, sixteen at a time.
            "2:",
            "cmp {next}, {whole}",
            "je 3f",
            "mov {at:e}, dword ptr [{next}]",
            "add {next}, 4",
            "imul {columns}, {at}, {group_of_panel}",
            "shl {at}, 6",
            "add {columns}, {panel}",
            "add {at}, {rows}",
            "tileloadd tmm3, [{at} + {row_step}]",
            "tileloadd tmm4, [{columns} + {column_step}]",
            "tdpbsud tmm0, tmm3, tmm4",
            ".if {v} > 1",
            "tileloadd tmm4, [{columns} + {column_step} + 64]",
            "tdpbsud tmm1, tmm3, tmm4",
            ".endif",
            ".if {v} > 2",
            "tileloadd tmm4, [{columns} + {column_step} + 128]",
            "tdpbsud tmm2, tmm3, tmm4",
            ".endif",
            "jmp 2b",
            // A last group of fewer quads.
            "3:",
            "cmp {next}, {end}",
            "je 4f",
            "mov {at:e}, dword ptr [{next}]",
            "imul {columns}, {at}, {group_of_panel}",
            "shl {at}, 6",
            "add {columns}, {panel}",
            "add {at}, {rows}",
            "tileloadd tmm5, [{at} + {row_step}]",
            "tileloadd tmm6, [{columns} + {column_step}]",
            "tdpbsud tmm0, tmm5, tmm6",
            ".if {v} > 1",
            "tileloadd tmm6, [{columns} + {column_step} + 64]",
            "tdpbsud tmm1, tmm5, tmm6",
            ".endif",
            ".if {v} > 2",
            "tileloadd tmm6, [{columns} + {column_step} + 128]",
            "tdpbsud tmm2, tmm5, tmm6",
            ".endif",
            "4:",
            "mov {at:e}, {out_step}",
            "tilestored [{out} + {at}], tmm0",
            ".if {v} > 1",
            "tilestored [{out} + {at} + 64], tmm1",
            ".endif",
            ".if {v} > 2",
            "tilestored [{out} + {at} + 128], tmm2",
            ".endif",
            "tilerelease",
            v = const V,
            group_of_panel = const GROUP * V * ROW_BYTES,
            out_step = const size_of::<i32>() * COLUMNS,
            at = inout(reg) &raw const sizes => _,
            next = inout(reg) groups.as_ptr() => _,
            whole = in(reg) whole.as_ptr_range().end,
            end = in(reg) groups.as_ptr_range().end,
            rows = in(reg) rows,
            row_step = in(reg) 4 * used.of,
            panel = in(reg) panel,
            column_step = in(reg) V * ROW_BYTES,
            columns = out(reg) _,
            out = in(reg) out.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
            out("tmm7") _,
            options(nostack),
        );
    }
}

const _: () = assert!(GROUP * 4 == ROW_BYTES && LANES * size_of::<i32>() == ROW_BYTES && GROUP <= 16 && ROWS <= 16);
