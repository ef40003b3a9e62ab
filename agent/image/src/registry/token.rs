//! Tokens: what a 401 with a challenge is answered with (distribution spec, token authentication).

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{StatusCode, Url};

use super::auth::{Challenge, Secret, TokenResponse};
use super::endpoint::Endpoint;
use super::http::{self, Body, Subject};
use crate::Error;

const LARGEST_TOKEN: u64 = 1 << 20;

impl Endpoint {
    /// A new `Authorization` after a 401. Layers ask at the same time: one fetches the token, the others use it.
    pub(super) async fn authorize(
        &self,
        before: Option<&HeaderValue>,
        challenge: Challenge,
        subject: &Subject,
    ) -> Result<HeaderValue, Error> {
        let mut current = self.authorization.lock().await;
        if let Some(value) = current.as_ref().filter(|value| Some(*value) != before) {
            return Ok(value.clone());
        }
        let value = match (&self.secret, challenge) {
            (Secret::Bearer(_), _) | (_, Challenge::Basic) => self
                .secret
                .header()
                .ok_or_else(|| self.unauthenticated(subject, "it takes no token for an answer"))?,
            (_, Challenge::Bearer { realm, service, scope }) => {
                self.token(&realm, service.as_deref(), scope.as_deref(), subject).await?
            }
        };
        *current = Some(value.clone());
        Ok(value)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        subject: &Subject,
    ) -> Result<HeaderValue, Error> {
        let mut url = Url::parse(realm)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| self.unauthenticated(subject, "its token server is not a URL"))?;
        if !self.secret.is_none() && url.scheme() == "http" && self.host().base.scheme() == "https" {
            return Err(self
                .unauthenticated(subject, "its token server would get the credentials without encryption"));
        }
        let default_scope = format!("repository:{}:pull", self.repository);
        let scope = scope.unwrap_or(&default_scope);
        let client = self.clients.to(&url);
        let request = if let Secret::Refresh(token) = &self.secret {
            let mut form = Url::parse("http://form/").unwrap_or_else(|_| url.clone());
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token)
                .append_pair("service", service.unwrap_or_default())
                .append_pair("scope", scope)
                .append_pair("client_id", "holdfast");
            let body = form.query().unwrap_or_default().to_owned();
            client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
        } else {
            if let Some(service) = service {
                url.query_pairs_mut().append_pair("service", service);
            }
            url.query_pairs_mut().append_pair("scope", scope);
            let request = client.get(url.clone());
            match self.secret.header() {
                Some(value) => request.header(AUTHORIZATION, value),
                None => request,
            }
        };
        let host = url.host_str().unwrap_or_default().to_owned();
        let asked =
            Subject { object: format!("a token for {} from {host}", subject.object), ..subject.clone() };
        let response = http::send(request, &asked).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let hint = if self.secret.is_none() {
                    "credentials are missing"
                } else {
                    "the credentials are wrong"
                };
                return Err(
                    self.unauthenticated(subject, &format!("{hint}: its token server {host} gives no token"))
                );
            }
            _ => return Err(http::refused(response, &asked, !self.secret.is_none()).await),
        }
        let body = Body::new(response, &asked).collect(LARGEST_TOKEN).await?;
        let body = body.ok_or_else(|| Error::TooLarge {
            object: asked.object.clone(),
            limit: LARGEST_TOKEN,
            unit: "bytes",
        })?;
        serde_json::from_slice::<TokenResponse>(&body)
            .ok()
            .and_then(|token| token.header())
            .ok_or_else(|| self.unauthenticated(subject, "its token server answers without a token"))
    }

    fn unauthenticated(&self, subject: &Subject, reason: &str) -> Error {
        Error::Unauthenticated {
            object: subject.object.clone(),
            registry: self.name.clone(),
            reason: reason.to_owned(),
        }
    }
}
