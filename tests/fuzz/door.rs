//! The broker itself, on a port: strangers say mutated conversations, and a child beside them is served all the while.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    corpus,
    mutate::Mutator,
    seed, share,
    stand::{PATIENCE, Stand, v5},
};

/// Strangers between two looks at the child.
const BATCH: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_full_of_strangers_serves_its_child() {
    let folder = tempfile::tempdir().expect("folder");
    let mut stand = Stand::start(folder.path()).await;
    let mut child = TcpStream::connect(stand.address()).await.expect("connected");
    child.write_all(&v5("child").bytes()).await.expect("written");
    let mut connack = [0; 2];
    timeout(PATIENCE, child.read_exact(&mut connack)).await.expect("in time").expect("CONNACK");
    let mut rest = vec![0; connack[1].into()];
    child.read_exact(&mut rest).await.expect("CONNACK");
    assert_eq!((connack[0], rest[1]), (0x20, 0), "the child is let in");

    let (seed, corpus) = (seed(), corpus::mqtt());
    let mut mutator = Mutator::new(seed, &[]);
    let (end, mut runs) = (Instant::now() + share(), 0_u64);
    let mut last: Vec<Vec<u8>> = Vec::new();
    while runs < 64 || Instant::now() < end {
        last.clear();
        let mut strangers = tokio::task::JoinSet::new();
        for _ in 0..BATCH {
            let input = mutator.next(&corpus);
            last.push(input.clone());
            let address = stand.address();
            strangers.spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("the broker still listens");
                let _ = stream.write_all(&input).await;
                let _ = stream.shutdown().await;
                let mut heard = Vec::new();
                let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut heard)).await;
            });
        }
        while let Some(stranger) = strangers.join_next().await {
            stranger.unwrap_or_else(|error| panic!("seed {seed}: {error}; {}", shown(&last)));
        }
        runs += BATCH as u64;
        // Somebody must listen to what is told of connections, or everything waits.
        while stand.events.try_recv().is_ok() {}
        child.write_all(&[0xC0, 0]).await.expect("written");
        let mut pong = [0; 2];
        let served = timeout(PATIENCE, child.read_exact(&mut pong)).await;
        assert!(served.is_ok_and(|read| read.is_ok()) && pong == [0xD0, 0], "seed {seed}: {}", shown(&last));
    }
    println!("the broker's door: {runs} strangers, seed {seed}");
    stand.stop().await;
}

fn shown(inputs: &[Vec<u8>]) -> String {
    inputs.iter().map(hex::encode).collect::<Vec<_>>().join(" ")
}
