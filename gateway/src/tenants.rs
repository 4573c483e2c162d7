// SPDX-License-Identifier: Apache-2.0
//! Several tenants behind one listener: who is meant, and that they do not meet.
//!
//! Stands before the layers of `router`, of which each tenant has its own. The
//! choice here is a hint: the chosen tenant's layers and handlers check token,
//! signature and name by themselves and know of nobody else. Invariant: a wrong
//! choice is refused there, and never reaches what is another's. What stands before those
//! layers costs a stranger's request no look at the backbone, and a body only as
//! there is room for those of strangers.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use fanfold_backbone::Backbone;
use fanfold_protocol::{ErrorKind, Problem, keys, tenant::Tenant};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{GatewayConfig, auth, config::Mistake, extract, router, state::AppState, triggers::sender};

/// How long workers know of a tenant without its being renewed, and how often it is.
const RECORD: (Duration, Duration) = (Duration::from_secs(24 * 3_600), Duration::from_secs(3_600));

/// A tenant with its layers.
struct Resident {
    app: AppState,
    stack: Router,
}

/// One router for all tenants.
pub(crate) fn router(apps: &[AppState]) -> Router {
    let resident = |app: &AppState| Resident { app: Arc::clone(app), stack: router::stack(Arc::clone(app)) };
    match apps {
        [alone] => router::stack(Arc::clone(alone)),
        _ => {
            let residents: Arc<[Resident]> = apps.iter().map(resident).collect();
            Router::new().fallback(enter).with_state(residents)
        }
    }
}

/// Hands a request to whom it is meant for; to the first, where that cannot be
/// told: it refuses all but what is open to everybody.
async fn enter(State(residents): State<Arc<[Resident]>>, request: Request) -> Response {
    let tokens = residents.iter().map(|resident| &resident.app.config.tokens[..]);
    let (at, request) = match auth::whose(request.headers(), tokens) {
        Some(at) => (at, request),
        None if router::bound_head(&request).is_err() => (0, request),
        None => {
            let (parts, body) = request.into_parts();
            let (at, body) = believed(&residents, &parts, body).await;
            (at.unwrap_or(0), Request::from_parts(parts, body))
        }
    };
    match residents[at].stack.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The tenant whose trigger believes the sender of a notification. The body comes
/// back, since a signature may have to be held against it.
async fn believed(residents: &[Resident], parts: &http::request::Parts, body: Body) -> (Option<usize>, Body) {
    let Some(name) = sender::trigger_of(parts.uri.path()) else { return (None, body) };
    let mut signed = Vec::new();
    for (at, resident) in residents.iter().enumerate() {
        let Some(trigger) = resident.app.triggers.get(&name) else { continue };
        match sender::claim(&trigger, &parts.headers) {
            sender::Claim::Believed => return (Some(at), body),
            sender::Claim::Signed(signature) => signed.push((at, signature)),
            sender::Claim::Refused => {}
        }
    }
    match &signed[..] {
        [] => (None, body),
        [(only, _)] => (Some(*only), body),
        [(first, _), ..] => {
            let app = &residents[*first].app;
            let read = match sender::read_unverified(app, &parts.headers, body).await {
                Ok(read) => read,
                // By the first, since somebody must.
                Err(problem) => return (Some(*first), extract::refused_body(problem)),
            };
            let fits = |(_, signature): &&(usize, sender::Signature)| signature.fits(read.bytes());
            let at = signed.iter().find(fits).map(|(at, _)| *at);
            (at.or(Some(*first)), Body::from(read.bytes().clone()))
        }
    }
}

/// Writes the tenants down for workers, and again before that lapses.
///
/// # Errors
/// The backbone does not answer at first.
pub(crate) async fn announce(
    backbone: Backbone,
    tenants: Vec<Arc<Tenant>>,
    stop: CancellationToken,
) -> Result<(), Problem> {
    write_down(&backbone, &tenants).await?;
    tokio::spawn(async move {
        let renewing = async {
            loop {
                tokio::time::sleep(RECORD.1).await;
                if let Err(problem) = write_down(&backbone, &tenants).await {
                    tracing::warn!(detail = %problem.detail, "tenants are not renewed; this is tried again in an hour");
                }
            }
        };
        stop.run_until_cancelled(renewing).await;
    });
    Ok(())
}

async fn write_down(backbone: &Backbone, tenants: &[Arc<Tenant>]) -> Result<(), Problem> {
    for tenant in tenants {
        let record = serde_json::to_vec(tenant).map_err(crate::problem::internal)?;
        let written = backbone.put_with_ttl(&keys::tenant(tenant), record, RECORD.0).await;
        written.map_err(crate::problem::of_backbone)?;
    }
    Ok(())
}

/// Checks each tenant's configuration, and that no two of them meet.
///
/// # Errors
/// All mistakes together.
pub fn check(configs: &[GatewayConfig]) -> Result<(), Problem> {
    let several = configs.len() > 1;
    let whose = |mistake: &Mistake| match &mistake.tenant {
        Some(name) if several => format!("{name}: {mistake}"),
        _ => mistake.to_string(),
    };
    let mistakes: Vec<String> = mistakes(configs).iter().map(whose).collect();
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(Problem::new(ErrorKind::InvalidSettings, mistakes.join("; ")))
}

/// The mistakes in each tenant's configuration, and where two of them meet.
pub fn mistakes(configs: &[GatewayConfig]) -> Vec<Mistake> {
    let mut among = Vec::new();
    if configs.is_empty() {
        among.push("expected at least one tenant, found none".to_owned());
    }
    for (at, config) in configs.iter().enumerate() {
        for other in &configs[..at] {
            meet(other, config, &mut among);
        }
        if configs.len() > 1 {
            own(config, configs, &mut among);
        }
    }
    let among = among.into_iter().map(|detail| Mistake { tenant: None, setting: "tenants", detail });
    configs.iter().flat_map(GatewayConfig::mistakes).chain(among).collect()
}

/// What is wrong with the buckets of one tenant among several.
fn own(config: &GatewayConfig, all: &[GatewayConfig], mistakes: &mut Vec<String>) {
    let tenant = &config.tenant;
    let buckets = tenant.buckets.as_deref().unwrap_or_default();
    if buckets.is_empty() {
        mistakes.push(format!(
            "{}: expected buckets, since there are several tenants, found none; name those that are its own",
            tenant.name
        ));
    }
    for pattern in buckets {
        for system in all.iter().map(|config| &config.tenant.system_bucket) {
            if pattern.matches(system) {
                mistakes.push(format!(
                    "{}: expected buckets without the platform's own, found {pattern}, which is {system} too",
                    tenant.name
                ));
            }
        }
    }
}

/// What two tenants must not share.
fn meet(one: &GatewayConfig, other: &GatewayConfig, mistakes: &mut Vec<String>) {
    let ((a, b), pair) =
        ((&one.tenant, &other.tenant), format!("{} and {}", one.tenant.name, other.tenant.name));
    if a.name == b.name {
        mistakes.push(format!("expected every tenant once, found {} twice", a.name));
    }
    if a.system_bucket == b.system_bucket || a.scope == b.scope {
        mistakes
            .push(format!("{pair}: expected a system bucket for each, found {} for both", a.system_bucket));
    }
    if one.tokens.iter().any(|token| other.tokens.iter().any(|found| token.to_hex() == found.to_hex())) {
        mistakes.push(format!("{pair}: expected no token of both, found one"));
    }
    for pattern in a.buckets.iter().flatten() {
        for found in b.buckets.iter().flatten().filter(|found| found.meets(pattern)) {
            mistakes.push(format!("{pair}: expected no bucket of both, found {pattern} and {found}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenDigest;

    fn config(name: &str, buckets: &[&str]) -> GatewayConfig {
        let mut config = GatewayConfig::new(name.parse().unwrap(), vec![TokenDigest::of(name)]);
        config.tenant = Arc::new(Tenant {
            name: name.parse().unwrap(),
            weight: 1,
            system_bucket: format!("fanfold-{name}"),
            scope: keys::tenant_scope(&name.parse().unwrap()),
            buckets: Some(buckets.iter().map(|text| text.parse().unwrap()).collect()),
        });
        config
    }

    #[test]
    fn tenants_do_not_meet() {
        assert_eq!(check(&[config("bank", &["bank", "bank-*"]), config("shop", &["shop*"])]), Ok(()));
        let mut same = config("shop", &["bank-eu", "*"]);
        same.tokens.push(TokenDigest::of("bank"));
        let detail = check(&[config("bank", &["bank-*"]), same, config("shop", &[])]).unwrap_err().detail;
        for part in [
            "bank and shop: expected no token of both",
            "bank and shop: expected no bucket of both, found bank-* and bank-eu",
            "bank and shop: expected no bucket of both, found bank-* and *",
            "found *, which is fanfold-bank too",
            "expected every tenant once, found shop twice",
            "shop and shop: expected a system bucket for each",
            "shop: expected buckets, since there are several tenants",
        ] {
            assert!(detail.contains(part), "{part}: {detail}");
        }
    }
}
