//! The cost of recording under the system's allocator: see `bench.rs` for what is measured and how to run it.

#[path = "bench.rs"]
mod bench;

#[global_allocator]
static ALLOCATOR: bench::memory::Counting<std::alloc::System> = bench::memory::Counting(std::alloc::System);

fn main() -> anyhow::Result<()> {
    bench::run("system")
}
