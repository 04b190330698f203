//! The runtime's own answer, over the socket that kubelet asks too: `ListPodSandbox` and
//! `ListContainers` of `runtime.v1` (Kubernetes' `staging/src/k8s.io/cri-api/pkg/apis/runtime/v1`).
//!
//! It is asked only for what no file tells, from a thread of its own, and has 300 ms: a runtime that
//! hangs, as on a node in trouble it may, is given up, and nothing waits for it.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, TryRecvError},
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client;
use hashbrown::HashMap;
use prost::Message;
use tokio::net::UnixStream;

use super::{Container, Pod, is_container_id, is_label, pod_uid};
use crate::host::Host;

/// For all sockets and both questions together.
pub const PATIENCE: Duration = Duration::from_millis(300);

/// Most bytes of an answer: what 1,000 containers take is some 2 MB.
const MOST_BYTES: usize = 16 << 20;

/// containerd as it is packaged, CRI-O, docker's, k3s, k0s, `MicroK8s`. (`/var/run` is a link
/// to `/run`.)
const SOCKETS: [&str; 6] = [
    "run/containerd/containerd.sock",
    "run/crio/crio.sock",
    "run/cri-dockerd.sock",
    "run/k3s/containerd/containerd.sock",
    "run/k0s/containerd.sock",
    "var/snap/microk8s/common/run/containerd.sock",
];

/// What the runtime says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// By container id, those of sandboxes included.
    pub containers: HashMap<String, Container>,
    /// By pod UID.
    pub pods: HashMap<String, Pod>,
}

/// A question under way.
#[derive(Debug)]
pub struct Asked {
    answer: Receiver<Answer>,
    patience: Duration,
}

impl Asked {
    /// The answer: `None` while there is none yet, an empty one when there will be none.
    #[must_use]
    pub fn poll(&self) -> Option<Answer> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Answer::default()),
        }
    }

    /// Waits for it, no longer than it may take.
    #[must_use]
    pub fn wait(&self) -> Answer {
        self.answer.recv_timeout(self.patience).unwrap_or_default()
    }
}

/// Asks whatever runtimes have a socket here; `None` when none has.
#[must_use]
pub fn ask(host: &Host) -> Option<Asked> {
    ask_for(host, PATIENCE)
}

fn ask_for(host: &Host, patience: Duration) -> Option<Asked> {
    let sockets: Vec<PathBuf> =
        SOCKETS.iter().map(|path| host.join(path)).filter(|path| path.exists()).collect();
    if sockets.is_empty() {
        return None;
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        let answer = runtime.block_on(ask_all(&sockets, patience));
        // Nobody may be there any more to hear it.
        drop(sender.send(answer));
    };
    std::thread::Builder::new().name("kleak-cri".to_owned()).spawn(work).ok()?;
    Some(Asked { answer: receiver, patience })
}

/// What all of them say until time is up.
async fn ask_all(sockets: &[PathBuf], patience: Duration) -> Answer {
    let mut answer = Answer::default();
    let all = async {
        for socket in sockets {
            match ask_one(socket).await {
                Ok(found) => {
                    answer.containers.extend(found.containers);
                    answer.pods.extend(found.pods);
                }
                Err(error) => tracing::debug!(socket = %socket.display(), %error, "no answer"),
            }
        }
    };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::debug!("the container runtime does not answer");
    }
    answer
}

/// Why a runtime's answer cannot be had.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot connect")]
    Connect(#[from] std::io::Error),
    #[error("HTTP/2 failed")]
    Http(#[from] h2::Error),
    #[error("the request could not be made")]
    Request(#[from] http::Error),
    #[error("{0}")]
    Refused(String),
    #[error("an answer of more than {} MiB", MOST_BYTES >> 20)]
    TooLong,
    #[error("the answer makes no sense")]
    Malformed(#[from] prost::DecodeError),
}

async fn ask_one(socket: &Path) -> Result<Answer, Error> {
    let stream = UnixStream::connect(socket).await?;
    let (requests, connection) = client::handshake(stream).await?;
    let asking = async {
        let sandboxes: ListPodSandboxResponse = call(requests.clone(), "ListPodSandbox").await?;
        let containers: ListContainersResponse = call(requests, "ListContainers").await?;
        Ok(answer_of(&sandboxes, &containers))
    };
    tokio::pin!(asking);
    tokio::select! {
        answer = &mut asking => answer,
        // It ends only by the other side's doing.
        ended = connection => match ended {
            Err(error) => Err(error.into()),
            Ok(()) => Err(Error::Refused("the connection was closed".to_owned())),
        },
    }
}

/// One call without arguments: gRPC over HTTP/2, whose messages have a byte that says whether they
/// are compressed, and four of length, before them (`PROTOCOL-HTTP2.md` of grpc).
async fn call<M: Message + Default>(
    requests: client::SendRequest<Bytes>,
    method: &str,
) -> Result<M, Error> {
    let request = http::Request::builder()
        .method(http::Method::POST)
        .uri(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut requests = requests.ready().await?;
    let (response, mut body) = requests.send_request(request, false)?;
    let mut empty = BytesMut::with_capacity(5);
    empty.put_u8(0);
    empty.put_u32(0);
    body.send_data(empty.freeze(), true)?;

    let response = response.await?;
    let refusal = |headers: &http::HeaderMap| {
        let status = headers.get("grpc-status")?;
        let message = headers.get("grpc-message").and_then(|text| text.to_str().ok());
        (status != "0").then(|| format!("gRPC status {status:?}: {}", message.unwrap_or_default()))
    };
    if let Some(why) = refusal(response.headers()) {
        return Err(Error::Refused(why));
    }
    let mut stream = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        if bytes.len() + chunk.len() > MOST_BYTES {
            return Err(Error::TooLong);
        }
        // Else the other side stops at 64 KiB.
        stream.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    if let Some(why) = stream.trailers().await?.as_ref().and_then(refusal) {
        return Err(Error::Refused(why));
    }
    if bytes.len() < 5 {
        return Err(Error::Refused("an answer without a message".to_owned()));
    }
    let compressed = bytes.get_u8() != 0;
    let length = bytes.get_u32() as usize;
    match bytes.get(..length) {
        Some(message) if !compressed => Ok(M::decode(message)?),
        _ => Err(Error::Refused("an answer that is compressed, or cut".to_owned())),
    }
}

/// Names from the lists, as far as they have the form of such.
fn answer_of(sandboxes: &ListPodSandboxResponse, containers: &ListContainersResponse) -> Answer {
    let mut answer = Answer::default();
    for sandbox in &sandboxes.items {
        let Some(metadata) = &sandbox.metadata else { continue };
        let Some(pod) = Pod::of(&metadata.namespace, &metadata.name) else { continue };
        let uid = pod_uid(&metadata.uid);
        if let Some(uid) = &uid {
            answer.pods.insert(uid.clone(), pod.clone());
        }
        if is_container_id(&sandbox.id) {
            let container = Container { pod: Some(pod), pod_uid: uid, name: None };
            answer.containers.insert(sandbox.id.clone(), container);
        }
    }
    for container in containers.containers.iter().filter(|it| is_container_id(&it.id)) {
        let sandbox = answer.containers.get(&container.pod_sandbox_id).cloned();
        let name = container.metadata.as_ref().map(|it| &it.name).filter(|name| is_label(name));
        let named = Container { name: name.cloned(), ..sandbox.unwrap_or_default() };
        if !named.is_empty() {
            answer.containers.insert(container.id.clone(), named);
        }
    }
    answer
}

// The fields that are used, with the numbers of api.proto. What is left out is passed over.

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<CriContainer>,
}

#[derive(Clone, PartialEq, Message)]
struct CriContainer {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<ContainerMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;
    use tokio::net::UnixListener;

    use super::*;

    const UID: &str = "0d5b6f9e-3c1a-4f7b-9e2d-8a6c4b2e0f1d";

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn sandboxes(name: &str) -> ListPodSandboxResponse {
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: UID.to_owned(),
            namespace: "shop".to_owned(),
        };
        ListPodSandboxResponse { items: vec![PodSandbox { id: id('a'), metadata: Some(metadata) }] }
    }

    fn containers(count: usize) -> ListContainersResponse {
        let container = |number: usize| CriContainer {
            id: format!("{number:064x}"),
            pod_sandbox_id: id('a'),
            metadata: Some(ContainerMetadata { name: format!("web-{number}") }),
        };
        ListContainersResponse { containers: (0..count).map(container).collect() }
    }

    /// A runtime of which each answer is made by a function of the method's path.
    fn serve(socket: &Path, answer: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = UnixListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let Ok(mut connection) = h2::server::handshake(stream).await else { continue };
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let Some(message) = answer(request.uri().path()) else {
                            let refusal = http::Response::builder()
                                .header("grpc-status", "12")
                                .body(())
                                .unwrap();
                            respond.send_response(refusal, true).unwrap();
                            continue;
                        };
                        let mut bytes = vec![0];
                        bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                        bytes.extend(message);
                        let mut body =
                            respond.send_response(http::Response::new(()), false).unwrap();
                        body.send_data(bytes.into(), false).unwrap();
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        body.send_trailers(trailers).unwrap();
                    }
                }
            });
        });
    }

    fn host_with_socket() -> (tempfile::TempDir, Host, PathBuf) {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        std::fs::create_dir_all(host.join("run/crio")).unwrap();
        let socket = host.join("run/crio/crio.sock");
        (tree, host, socket)
    }

    #[test]
    fn a_runtime_is_asked_and_answers() {
        let (_tree, host, socket) = host_with_socket();
        assert!(ask(&host).is_none(), "there is no socket yet");
        // More than the window that HTTP/2 begins with.
        serve(&socket, |path| {
            Some(match path {
                "/runtime.v1.RuntimeService/ListPodSandbox" => sandboxes("web-0").encode_to_vec(),
                "/runtime.v1.RuntimeService/ListContainers" => containers(2_000).encode_to_vec(),
                other => panic!("{other}"),
            })
        });
        // As long as it takes here: a busy machine is no failure.
        let answer = ask_for(&host, Duration::from_secs(20)).unwrap().wait();
        let pod = Pod::of("shop", "web-0");
        assert_eq!(answer.pods.get(UID), pod.as_ref());
        assert_eq!(answer.containers.len(), 2_001);
        let named = &answer.containers[&format!("{:064x}", 1_999)];
        assert_eq!((named.name.as_deref(), &named.pod), (Some("web-1999"), &pod));
        assert_eq!(named.pod_uid.as_deref(), Some(UID));
        assert_eq!(answer.containers[&id('a')].name, None);
    }

    #[test]
    fn a_runtime_that_refuses_hangs_or_talks_nonsense_is_given_up() {
        let (_tree, host, socket) = host_with_socket();
        serve(&socket, |_| None);
        assert_eq!(ask(&host).unwrap().wait(), Answer::default());

        let (_tree, host, socket) = host_with_socket();
        serve(&socket, |_| Some(vec![0xff; 100]));
        assert_eq!(ask(&host).unwrap().wait(), Answer::default());

        // Takes the connection and says nothing.
        let (_tree, host, socket) = host_with_socket();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let start = Instant::now();
        let asked = ask(&host).unwrap();
        assert_eq!(asked.poll(), None);
        assert_eq!(asked.wait(), Answer::default());
        assert!(start.elapsed() < PATIENCE * 10, "{:?}", start.elapsed());

        // A socket that nobody listens to any more.
        let (_tree, host, socket) = host_with_socket();
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert_eq!(ask(&host).unwrap().wait(), Answer::default());
    }

    #[test]
    fn names_of_another_form_are_not_taken() {
        let mut list = containers(1);
        list.containers[0].metadata = Some(ContainerMetadata { name: "w\u{1b}[31m".to_owned() });
        let answer = answer_of(&sandboxes("web 0"), &list);
        assert_eq!(answer, Answer::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_a_panic(bytes: Vec<u8>) {
            let sandboxes = ListPodSandboxResponse::decode(bytes.as_slice()).unwrap_or_default();
            let containers = ListContainersResponse::decode(bytes.as_slice()).unwrap_or_default();
            answer_of(&sandboxes, &containers);
        }
    }
}
