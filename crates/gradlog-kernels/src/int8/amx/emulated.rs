//! The instructions of AMX by their definition, for the tests of machines without them. The processor refuses each of
//! these instructions, and a signal handler does what its definition says and goes on behind it.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, "Intel AMX instruction reference".

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::Once;

struct Tiles {
    /// Rows and bytes of a row of each tile.
    sizes: [(usize, usize); 8],
    tiles: [[[u8; 64]; 16]; 8],
}

thread_local! {
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles { sizes: [(0, 0); 8], tiles: [[[0; 64]; 16]; 8] }) };
}

/// Takes over the instructions that this processor does not have.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // SAFETY: all fields of this structure may be zero. The handler has the form that `SA_SIGINFO` asks for. The
        // signal comes from the thread's own instruction, so it interrupts no other code.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = refused as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    });
}

/// Whether no tile of this thread is in use. Where the processor has tiles of its own, nobody asks it: always true.
pub(crate) fn are_released() -> bool {
    TILES.with_borrow(|tiles| tiles.sizes == [(0, 0); 8])
}

/// The registers of instructions by their numbers there.
const REGISTERS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Does one instruction. An instruction that gradlog does not use, and tiles whose sizes do not fit, end the process
/// with a message. Encodings that the assembler does not write, of which some would be faults, are not told apart.
extern "C" fn refused(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes the registers of the interrupted thread, which waits for the handler.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let mut next = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: the processor has read these bytes as an instruction, and no more are read than it has.
    let mut byte = || unsafe {
        let byte = *next;
        next = next.add(1);
        byte
    };
    assert_eq!(byte(), 0xC4, "no instruction of AMX");
    let (extended, prefix, opcode, modrm) = (!byte(), byte(), byte(), byte());
    assert_eq!((extended & 31, prefix >> 7, prefix >> 2 & 1), (!2 & 31, 0, 0), "no instruction of AMX");
    let reg = usize::from(modrm >> 3 & 7);
    let mut memory = None;
    if modrm >> 6 != 3 {
        let value = |number: u8| registers[REGISTERS[usize::from(number)] as usize];
        let (base, step) = if modrm & 7 == 4 {
            let sib = byte();
            let base = value(sib & 7 | (extended >> 5 & 1) << 3);
            (base, value(sib >> 3 & 7 | (extended >> 6 & 1) << 3) << (sib >> 6))
        } else {
            (value(modrm & 7 | (extended >> 5 & 1) << 3), 0)
        };
        let displacement = match modrm >> 6 {
            0 => 0,
            1 => i64::from(byte() as i8),
            _ => i64::from(i32::from_le_bytes([byte(), byte(), byte(), byte()])),
        };
        memory = Some(((base + displacement) as *mut u8, step as isize));
    }
    TILES.with_borrow_mut(|tiles| match (opcode, prefix & 3, memory) {
        (0x49, 0, Some((from, _))) => tiles.configure(from),
        (0x49, 0, None) => tiles.sizes = [(0, 0); 8],
        (0x4B, 3, Some((from, step))) => tiles.load(reg, from, step),
        (0x4B, 2, Some((to, step))) => tiles.store(reg, to, step),
        (0x5E, 2, None) => tiles.multiply(reg, usize::from(modrm & 7), usize::from(!prefix >> 3 & 15)),
        other => panic!("no instruction that gradlog uses: {other:?}"),
    });
    registers[libc::REG_RIP as usize] = next as i64;
}

impl Tiles {
    /// `ldtilecfg`.
    fn configure(&mut self, from: *const u8) {
        // SAFETY: the instruction reads 64 bytes.
        let bytes: [u8; 64] = unsafe { from.cast::<[u8; 64]>().read() };
        assert!(bytes[0] == 1 && bytes[1..16].iter().all(|byte| *byte == 0), "another palette, or reserved bytes");
        assert!(bytes[32..48].iter().chain(&bytes[56..]).all(|byte| *byte == 0), "there are eight tiles");
        for (number, size) in self.sizes.iter_mut().enumerate() {
            let row_bytes = u16::from_le_bytes([bytes[16 + 2 * number], bytes[17 + 2 * number]]).into();
            *size = (bytes[48 + number].into(), row_bytes);
            assert!(size.0 <= 16 && size.1 <= 64 && (size.0 == 0) == (size.1 == 0), "a tile of {size:?}");
        }
        self.tiles = [[[0; 64]; 16]; 8];
    }

    fn size(&self, tile: usize) -> (usize, usize) {
        assert!(self.sizes[tile].0 > 0, "tile {tile} has no size");
        self.sizes[tile]
    }

    /// `tileloadd`.
    fn load(&mut self, tile: usize, from: *const u8, step: isize) {
        let (rows, row_bytes) = self.size(tile);
        self.tiles[tile] = [[0; 64]; 16];
        for (number, row) in self.tiles[tile][..rows].iter_mut().enumerate() {
            // SAFETY: the instruction reads these bytes.
            let bytes = unsafe { std::slice::from_raw_parts(from.offset(number as isize * step), row_bytes) };
            row[..row_bytes].copy_from_slice(bytes);
        }
    }

    /// `tilestored`.
    fn store(&self, tile: usize, to: *mut u8, step: isize) {
        let (rows, row_bytes) = self.size(tile);
        for (number, row) in self.tiles[tile][..rows].iter().enumerate() {
            // SAFETY: the instruction writes these bytes.
            unsafe { to.offset(number as isize * step).copy_from(row.as_ptr(), row_bytes) };
        }
    }

    /// `tdpbsud`: four products of signed by unsigned bytes for each number of 32 bits.
    fn multiply(&mut self, sums: usize, signed: usize, unsigned: usize) {
        let ((rows, row_bytes), (of_signed, depth), (quads, of_unsigned)) =
            (self.size(sums), self.size(signed), self.size(unsigned));
        assert_eq!((rows, row_bytes, depth), (of_signed, of_unsigned, 4 * quads), "sizes that do not fit");
        assert!(sums != signed && sums != unsigned && signed != unsigned, "the same tile twice");
        for row in 0..rows {
            for at in (0..row_bytes).step_by(4) {
                let mut sum = i32::from_le_bytes(self.tiles[sums][row][at..at + 4].try_into().unwrap());
                for place in 0..depth {
                    let left = i32::from(self.tiles[signed][row][place] as i8);
                    sum += left * i32::from(self.tiles[unsigned][place / 4][at + place % 4]);
                }
                self.tiles[sums][row][at..at + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}
