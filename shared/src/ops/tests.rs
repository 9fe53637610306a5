//! The endpoint over real HTTP, for daemons that answer, that are stuck, and that are not there yet.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use prometheus_client::metrics::gauge::ConstGauge;

use tokio::net::TcpListener;

use super::{http::Endpoint, *};

#[derive(Default)]
struct Scripted {
    stuck: AtomicBool,
}

impl Daemon for Scripted {
    fn answers(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async {
            if self.stuck.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            true
        })
    }

    fn summary(&self) -> String {
        "round 7".into()
    }

    fn measure(&self, registry: &mut Registry) {
        registry.register("scripted_round", "The round", ConstGauge::new(7));
    }
}

/// Sends `request` and reads until the end.
async fn exchange(address: SocketAddr, request: &'static str) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap()
}

macro_rules! request {
    ($method:literal, $path:literal) => {
        concat!($method, " ", $path, " HTTP/1.1\r\nHost: localhost\r\n\r\n")
    };
}

fn health() -> Health {
    let storage = Storage::new([]);
    Health::starting("scripted", "1.2.3", Clock::manual(Timestamp::EPOCH), storage)
}

async fn open(health: &Health) -> (Endpoint, SocketAddr) {
    let any = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::open(Some(any), health.clone()).await.unwrap();
    let address = endpoint.address().unwrap();
    (endpoint, address)
}

#[track_caller]
fn says(answer: &str, status: &str, word: &str) {
    let whole = answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(word);
    assert!(whole, "neither {status} nor {word:?}: {answer}");
}

#[tokio::test]
async fn probes_follow_the_daemons_life() {
    let health = health();
    let (_endpoint, at) = open(&health).await;
    says(&exchange(at, request!("GET", "/livez")).await, "200", "opening");
    says(&exchange(at, request!("GET", "/readyz")).await, "503", "opening");
    health.serving(Arc::new(Scripted::default()));
    says(&exchange(at, request!("GET", "/livez")).await, "200", "live");
    says(&exchange(at, request!("GET", "/readyz")).await, "200", "ready");
    let storage = health.storage.clone();
    let recovered = tokio::spawn(async move { storage.recovered("no space".into()).await });
    health.storage.watch().wait_for(Option::is_some).await.unwrap();
    says(&exchange(at, request!("GET", "/livez")).await, "200", "waiting for storage: no space");
    says(&exchange(at, request!("GET", "/readyz")).await, "503", "no space");
    says(&exchange(at, request!("GET", "/metrics")).await, "200", "collegium_storage_waiting 1");
    recovered.await.unwrap();
    says(&exchange(at, request!("GET", "/readyz")).await, "200", "ready");
    health.stopping();
    says(&exchange(at, request!("GET", "/livez")).await, "200", "stopping");
    says(&exchange(at, request!("GET", "/readyz")).await, "503", "stopping");
}

#[tokio::test]
async fn a_stuck_owner_is_neither_live_nor_ready() {
    let health = Health { patience: Duration::from_millis(50), ..health() };
    let daemon = Arc::new(Scripted::default());
    health.serving(Arc::clone(&daemon) as Arc<dyn Daemon>);
    assert_eq!(health.live().await.unwrap(), "live");
    daemon.stuck.store(true, Ordering::SeqCst);
    assert!(health.live().await.unwrap_err().contains("does not answer"));
    assert!(health.ready().await.is_err());
    daemon.stuck.store(false, Ordering::SeqCst);
    assert_eq!(health.ready().await, Ok(()));
}

#[tokio::test]
async fn the_service_manager_hears_nothing_good_of_a_stuck_owner() {
    let health = Health { patience: Duration::from_millis(20), ..health() };
    let daemon = Arc::new(Scripted::default());
    health.serving(Arc::clone(&daemon) as Arc<dyn Daemon>);
    let beats = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&beats);
    let alive = move || {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let say = move |status: &str| say.send(status.to_owned()).unwrap();
    let every = Duration::from_millis(1);
    let report = tokio::spawn(health.clone().report_every(every, alive, say));
    assert_eq!(said.recv().await.unwrap(), "round 7");
    while beats.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    daemon.stuck.store(true, Ordering::SeqCst);
    // Whatever was asked before has been answered when the owner was found stuck once.
    assert!(health.live().await.is_err());
    let beaten = beats.load(Ordering::SeqCst);
    assert!(health.live().await.is_err());
    assert_eq!(beats.load(Ordering::SeqCst), beaten);
    health.stopping();
    report.await.unwrap();
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let health = health();
    let (_endpoint, at) = open(&health).await;
    let before = exchange(at, request!("GET", "/metrics")).await;
    says(&before, "200", "collegium_serving 0");
    assert!(!before.contains("scripted_round"));
    health.serving(Arc::new(Scripted::default()));
    let answer = exchange(at, request!("GET", "/metrics")).await;
    for line in [
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8",
        "collegium_build_info{program=\"scripted\",version=\"1.2.3\"} 1",
        "collegium_serving 1",
        "collegium_storage_waiting 0",
        "process_start_time_seconds 0",
        "# TYPE process_cpu_seconds counter",
        "scripted_round 7",
        "# EOF",
    ] {
        assert!(answer.lines().any(|l| l == line), "{line:?} is not in {answer}");
    }
}

#[tokio::test]
async fn what_is_not_asked_for_by_get_is_refused() {
    let health = health();
    let (_endpoint, at) = open(&health).await;
    says(&exchange(at, request!("GET", "/")).await, "404", "");
    says(&exchange(at, request!("POST", "/livez")).await, "405", "");
    says(&exchange(at, "HTTP/1.1 what\r\n\r\n").await, "400", "");
}

#[tokio::test]
async fn the_endpoint_moves_and_stays_where_the_new_address_is_taken() {
    let health = health();
    let (mut endpoint, first) = open(&health).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = endpoint.move_to(Some(taken.local_addr().unwrap())).await.unwrap_err();
    assert!(refused.to_string().contains("ops.listen"), "{refused}");
    says(&exchange(first, request!("GET", "/livez")).await, "200", "");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    endpoint.move_to(Some(free)).await.unwrap();
    says(&exchange(free, request!("GET", "/livez")).await, "200", "");
    endpoint.move_to(None).await.unwrap();
    assert_eq!(endpoint.address(), None);
}

#[tokio::test]
async fn a_daemon_that_stops_is_not_ready_again() {
    let health = health();
    health.stopping();
    health.reloading(async { health.serving(Arc::new(Scripted::default())) }).await;
    health.opening();
    assert_eq!(health.summary(), "stopping");
}
