//! Serves a folder by the protocol of S3 on the loopback address, to try things without a bucket.
//!
//! ```sh
//! mkdir -p /tmp/buckets/training
//! cargo run --release -p gradlog-store --example loopback -- /tmp/buckets 127.0.0.1:9000
//! ```

#[allow(dead_code)]
#[path = "../tests/it/server.rs"]
mod server;

use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, address] = arguments.as_slice() else {
        eprintln!("usage: loopback FOLDER ADDRESS:PORT");
        return;
    };
    let server = server::Server::start_on(Path::new(folder), address);
    println!("export AWS_ENDPOINT_URL=http://{}", server.address);
    println!("export AWS_ACCESS_KEY_ID={}", server::CREDENTIALS.0);
    println!("export AWS_SECRET_ACCESS_KEY={}", server::CREDENTIALS.1);
    loop {
        std::thread::park();
    }
}
