import { HttpContextToken, HttpRequest } from '@angular/common/http';
import { EnvironmentProviders, InjectionToken, makeEnvironmentProviders } from '@angular/core';
import { PendingKeys, RetryOptions, RetryPolicy, retryPolicy } from 'flask-idempotency';

/** How often and how long requests are repeated, in milliseconds, and which. */
export interface IdempotencyOptions extends RetryOptions {
  /** Which requests the interceptor looks after: all unless given. To other origins, a key means a CORS preflight. */
  appliesTo?: (request: HttpRequest<unknown>) => boolean;
  /** Where the payment service keeps its keys: `new PendingKeys()` unless given. */
  pending?: PendingKeys;
}

export interface IdempotencySettings {
  readonly policy: RetryPolicy;
  readonly appliesTo: (request: HttpRequest<unknown>) => boolean;
  readonly pending: PendingKeys;
}

export const IDEMPOTENCY_SETTINGS = new InjectionToken<IdempotencySettings>('IDEMPOTENCY_SETTINGS', {
  providedIn: 'root',
  factory: () => settings({}),
});

/** The options of the interceptor and of the payment service. Throws where they make no sense. */
export function provideIdempotency(options: IdempotencyOptions): EnvironmentProviders {
  return makeEnvironmentProviders([{ provide: IDEMPOTENCY_SETTINGS, useValue: settings(options) }]);
}

/** The key of one request, in its context: for those who know the operation's name. A key in the header wins. */
export const IDEMPOTENCY_KEY = new HttpContextToken<string | null>(() => null);

/** Whether one request goes out as it is: no key, no repeat. */
export const WITHOUT_IDEMPOTENCY = new HttpContextToken<boolean>(() => false);

function settings({ appliesTo = () => true, pending = new PendingKeys(), ...bounds }: IdempotencyOptions) {
  return { policy: retryPolicy(bounds), appliesTo, pending };
}
