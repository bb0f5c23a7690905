//! Attacks that concern any program: slow request bodies, and pages of other sites that make a visitor's browser send
//! requests.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::{interval, timeout};

use crate::{
    bodies::{AnyBody, any, channel},
    client::{Client, VERSIONS, request},
};

const BOUND: Duration = Duration::from_secs(60);
/// The time between two bytes of a slow body.
const DRIP: Duration = Duration::from_millis(50);

/// The method and the path of a request that changes something.
pub(crate) type Change<'a> = (&'a str, &'a str);

/// The headers that browsers, old ones too, send with a request of another site's page.
const FOREIGN: [&[(&str, &str)]; 5] = [
    &[("origin", "https://evil.test"), ("sec-fetch-site", "cross-site")],
    &[("origin", "https://evil.test")],
    &[("origin", "null")],
    &[("sec-fetch-site", "cross-site")],
    &[("sec-fetch-site", "same-site")],
];
/// The headers that browsers send with a request of the site's own page, and that programs send.
const OWN: [&[(&str, &str)]; 4] = [
    &[("origin", "http://server.test"), ("sec-fetch-site", "same-origin")],
    &[("origin", "http://server.test")],
    &[("sec-fetch-site", "none")],
    &[],
];

pub(crate) async fn send(address: SocketAddr, version: Version, request: Request<AnyBody>) -> Response<Incoming> {
    let sent = async { Client::connect(address, version).await.send(request).await.unwrap() };
    timeout(BOUND, sent).await.expect("an answer in time")
}

fn with(headers: &[(&'static str, &str)], mut request: Request<AnyBody>) -> Request<AnyBody> {
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

/// Checks that no change is made for a page of another site. The site's own pages and programs post `text`.
pub(crate) async fn pages_of_other_sites_change_nothing(
    address: SocketAddr,
    changes: &[Change<'_>],
    text: &'static str,
) {
    let body = || any(Full::from(text));
    for version in VERSIONS {
        for (method, target) in changes {
            for headers in FOREIGN {
                let refused =
                    send(address, version, with(headers, request(method, target, any(Full::from("forged"))))).await;
                assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{method} {target} {headers:?} over {version:?}");
            }
            for headers in OWN {
                let done = send(address, version, with(headers, request(method, target, body()))).await;
                assert_ne!(done.status(), StatusCode::FORBIDDEN, "{method} {target} {headers:?} over {version:?}");
            }
        }
    }
}

/// A program answers for this machine's names and for `server.test`, and for nobody whose name points to this machine (DNS rebinding).
pub(crate) async fn names_of_others_are_refused(address: SocketAddr, requests: &[Change<'_>]) {
    for version in VERSIONS {
        for (method, target) in requests {
            for (host, is_refused) in [
                ("evil.test", true),
                ("evil.test:80", true),
                ("127.0.0.1.evil.test", true),
                ("localhost.evil.test", true),
                ("evillocalhost", true),
                ("xserver.test", true),
                ("192.0.2.1", true),
                ("[2001:db8::1]:3000", true),
                ("localhost", false),
                ("LocalHost:1", false),
                ("app.localhost", false),
                ("127.0.0.1", false),
                ("127.0.0.1:3000", false),
                ("[::1]:3000", false),
                ("Server.Test.", false),
            ] {
                let own = format!("http://{host}");
                let mut asked = with(
                    &[("origin", &own), ("sec-fetch-site", "same-origin")],
                    request(method, target, any(Full::from("forged"))),
                );
                *asked.uri_mut() = format!("{own}{target}").parse().unwrap();
                let status = send(address, version, asked).await.status();
                let is_misdirected = status == StatusCode::MISDIRECTED_REQUEST;
                assert_eq!(is_misdirected, is_refused, "{method} {target} at {host} over {version:?}: {status}");
            }
        }
    }
}

/// Of a program that waits for a second: this request is given up while its body comes, byte by byte. Zeros are text, a form, and
/// empty gRPC messages.
pub(crate) async fn a_body_that_trickles_is_given_up(
    address: SocketAddr,
    headers: &[(&'static str, &str)],
    (method, target): Change<'_>,
) {
    for version in VERSIONS {
        let (frames, body) = channel();
        let drips = tokio::spawn(async move {
            let mut clock = interval(DRIP);
            // Until the server no longer accepts the body.
            while frames.send(Ok(Frame::data(Bytes::from_static(b"\0")))).await.is_ok() {
                clock.tick().await;
            }
        });
        let answer = send(address, version, with(headers, request(method, target, body))).await;
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT, "{target} over {version:?}");
        drop(answer);
        timeout(BOUND, drips).await.expect("the server stops reading the body").unwrap();
    }
}

/// Reads a stream until it contains this text this many times.
pub(crate) async fn until(stream: &mut Response<Incoming>, text: &str, times: usize) -> String {
    let mut read = String::new();
    while read.matches(text).count() < times {
        let frame = timeout(BOUND, stream.frame()).await.expect("more of the stream").expect("no end").unwrap();
        read.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    read
}
