//! A cluster of two masters.

use tower_sse::backplane::Backplane;

use crate::{
    reader::{Reader, block},
    server::Server,
};

#[tokio::test]
async fn from_any_node_of_a_cluster_the_stream_is_found_at_its_master() {
    let nodes = [0, 1].map(|_| Server::start(&["--cluster-enabled", "yes"]));
    let _: String = nodes[0].tell("CLUSTER ADDSLOTSRANGE 0 8191");
    let _: String = nodes[1].tell("CLUSTER ADDSLOTSRANGE 8192 16383");
    let _: String = nodes[0].tell(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[1].port));
    let agrees = |node: &Server| {
        let info: String = node.tell("CLUSTER INFO");
        info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
    };
    while !nodes.iter().all(agrees) {
        tokio::task::yield_now().await;
    }
    for stream in ["a", "b", "c", "d"] {
        let [one, other] = nodes.each_ref().map(|node| node.engine().stream(stream));
        one.append(&block(1)).await.unwrap();
        other.append(&block(2)).await.unwrap();
        for engine in [one, other] {
            let mut reader = Reader::follow(&engine, None).await;
            assert_eq!(reader.numbers(2).await, [1, 2]);
        }
    }
    let streams: Vec<usize> = nodes.iter().map(|node| node.tell("DBSIZE")).collect();
    assert!(streams.iter().all(|&streams| streams > 0), "both nodes have some: {streams:?}");
}
