//! The cost of recording under mimalloc: the same as `benches/overhead`, which says what is measured and how to run it.

#[path = "../overhead/bench.rs"]
mod bench;

#[global_allocator]
static ALLOCATOR: bench::memory::Counting<mimalloc::MiMalloc> = bench::memory::Counting(mimalloc::MiMalloc);

fn main() -> anyhow::Result<()> {
    bench::run("mimalloc")
}
