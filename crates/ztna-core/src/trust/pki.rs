//! Certificates made here: the trust domain's CA and its nodes' leaves. Pure: time goes in, PEM comes out.
